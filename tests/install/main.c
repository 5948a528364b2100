/* SPDX-License-Identifier: BSD-3-Clause */
/* A project outside the tree: protects one array, as C or as C++. */
#include <ftmem.h>
#include <stdio.h>

static double state[1000];

int main(void)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;
	struct ftmem_region region = FTMEM_REGION_INIT;
	struct ftmem *ft = NULL;
	uint64_t version = 0;

	opts.job = "outside";
	region.name = "state";
	region.addr = state;
	region.bytes = sizeof(state);
	if (ftmem_open(&opts, &ft) != FTMEM_OK || ftmem_region_add(ft, &region) != FTMEM_OK
	    || ftmem_seal(ft) != FTMEM_OK || ftmem_restore(ft, &version) < 0
	    || ftmem_snapshot(ft, version + 1, NULL) != FTMEM_OK
	    || ftmem_fence(ft, NULL) != FTMEM_OK
	    || ftmem_wait(ft, version + 1, 20000) != FTMEM_OK) {
		fprintf(stderr, "%s\n", ftmem_errmsg());
		ftmem_close(ft);
		return 1;
	}
	printf("outside: version %llu\n", (unsigned long long)version + 1);
	ftmem_close(ft);
	return 0;
}
