# SPDX-License-Identifier: BSD-3-Clause
"""What ftmem_gpu_bench.py found, as tables in Markdown. Of several ranks that with the worst
figure is shown, and of rates their sum, since they share the link or the machine's memory.
"""
import table

KIND_TEXTS = {"baseline": "training alone", "ideal": "ideal copies", "ftmem": "libftmem"}


def median(figures, key):
    found = figures.get(key)
    return found["median"] if isinstance(found, dict) else found


def of_ranks(ranks, key, join=max):
    """None if no rank has it."""
    found = [value for figures in ranks if (value := median(figures, key)) is not None]
    return join(found) if found else None


def number(value, digits=3):
    return "-" if value is None else f"{value:,.{digits}g}" if value < 1000 else f"{value:,.0f}"


def share(value, whole):
    return "-" if not value or not whole else f"{100 * value / whole:.1f}%"


def spread(ranks, key, of="p99"):
    found = [figures[key][of] for figures in ranks if figures.get(key)]
    return max(found) if found else None


def rate_rows(sections):
    raw, copy = sections.get("raw", []), sections.get("copy", [])
    for way, text in (("d2h", "snapshot, device to host"), ("h2d", "restore, host to device")):
        big, small, ours = (of_ranks(ranks, key, sum) for ranks, key in (
            (raw, f"{way}_GBps"), (raw, f"tensors_{way}_GBps"), (copy, f"{way}_GBps")))
        if big or ours:
            yield [text, number(big), number(small), number(ours), share(ours, big)]


def copy_rows(sections):
    copy = sections.get("copy", [])
    for key, text in (("device_copy_s", "all bytes off the device (s)"),
                      ("protect_s", "committed after (s)"),
                      ("restore_s", "`ftmem_restore()` (s)")):
        if of_ranks(copy, key):
            yield [text, number(of_ranks(copy, key)), number(spread(copy, key, "max"))]


def call_rows(sections):
    calls, train = sections.get("calls", []), sections.get("train", [])
    for ranks, key, text in (
            (calls, "snapshot_us", "`ftmem_snapshot()`"),
            (calls, "snapshot_in_library_us", "the same, timed inside"),
            (calls, "fence_us", "`ftmem_fence()`, copies queued"),
            (calls, "fence_in_library_us", "the same, timed inside"),
            (calls, "fence_at_once_us", "`ftmem_fence()`, right after the snapshot"),
            (train, "snapshot_us", "`ftmem_snapshot()` while training, with what it waited"),
            (train, "fence_us", "`ftmem_fence()` while training")):
        if of_ranks(ranks, key) is not None:
            yield [text, number(of_ranks(ranks, key)), number(spread(ranks, key))]


def train_rows(train):
    for kind, text in KIND_TEXTS.items():
        steps = [figures["step_ms"].get(kind) for figures in train]
        if not all(steps):
            continue
        over = [figures["overhead_percent"].get(kind) for figures in train]
        paired = [figures["paired_percent"].get(kind) for figures in train]
        yield [text, number(max(step["median"] for step in steps), 5),
               number(max(step["p99"] for step in steps), 5),
               f"{max(over):+.2f}" if None not in over else "-",
               f"{max(p['median'] for p in paired):+.2f}" if all(paired) else "-"]


def counted_rows(train):
    if not all("snapshots" in figures for figures in train):
        return
    for key, text in (("snapshots", "snapshots asked for"), ("committed", "committed"),
                      ("skipped", "skipped"), ("dropped", "dropped"),
                      ("stalls", "fences that held up the stream"),
                      ("stall_ms", "held up for each snapshot (ms)"),
                      ("waited", "calls that waited for the slot"),
                      ("wait_ms", "waited on the host for each snapshot (ms)")):
        yield [text, number(of_ranks(train, key))]
    yield ["staged on the device by the last (MB)",
           number(of_ranks(train, "staged_bytes") / 1e6)]


def dcp_rows(ranks):
    for name in ranks[0]["settings"]:
        found = [figures["settings"].get(name, {}) for figures in ranks]
        failed = next((one["failed"] for one in found if "failed" in one), None)
        if failed:
            yield [name, f"did not run: {failed[:60]}", "-", "-"]
        else:
            yield [name, *(number(max(sorted(one[key])[len(one[key]) // 2] for one in found))
                           for key in ("call_s", "staged_s", "done_s"))]


def about(results):
    machine, versions, options = results["machine"], results["versions"], results["options"]
    gpu = machine["gpu"] or "no GPU: host memory, the figures say nothing"
    lines = [f"{gpu}, {machine['cpus']} CPUs; PyTorch {versions['torch']}, CUDA "
             f"{versions.get('cuda_runtime') or '-'}; model {options['model']}, "
             f"{results['ranks']} rank(s), each holds {options['hold']}."]
    for name in ("copy", "train"):
        for figures in results["sections"].get(name, [])[:1]:
            lines.append(f"{name}: {figures['tensors']:,} tensors, "
                         f"{figures['bytes'] / 1e9:.3g} GB of a rank; parity "
                         f"{figures.get('parity', '-')}; every byte compared: "
                         f"{'right' if figures.get('verified') else 'NOT DONE'}.")
    return lines


def text(results):
    sections = results["sections"]
    train, dcp = sections.get("train"), sections.get("dcp")
    tables = [(["GB/s", "one array", "the tensors", "libftmem", "of one array"],
               list(rate_rows(sections))),
              (["copies", "median", "most"], list(copy_rows(sections))),
              (["host time, us", "median", "99th percentile"], list(call_rows(sections)))]
    if train:
        tables.append((["step, ms", "median", "99th percentile", "over training alone, %",
                        "by turns, %"], list(train_rows(train))))
        tables.append((["beside the training", ""], list(counted_rows(train))))
    if dcp:
        tables.append((["PyTorch, s", "call returned", "state may be written", "done"],
                       list(dcp_rows(dcp))))
    lines = about(results)
    for head, rows in tables:
        if rows:
            lines += ["", *table.markdown(head, rows)]
    for name, why in results["failed"].items():
        lines += ["", f"FAILED: {name}: {why}"]
    return "\n".join(lines)
