/* SPDX-License-Identifier: BSD-3-Clause */
#include "machine.h"

#include <fcntl.h>
#include <unistd.h>

#include "checksum.h"

uint64_t machine_boot(void)
{
	char id[64] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, id, sizeof(id));

	if (fd >= 0)
		close(fd);
	return n > 0 ? digest_more(DIGEST_INIT, id, (size_t)n) : 0;
}
