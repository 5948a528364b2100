/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Linked into MPI tests under LeakSanitizer: modules that MPI loads stay loaded, so
 * that their leaks can be told from ours by the module's name.
 */
#include <dlfcn.h>

int dlclose(void *handle)
{
	(void)handle;
	return 0;
}
