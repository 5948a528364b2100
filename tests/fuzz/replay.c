/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Runs a fuzz target without a fuzzer:
 *
 *   corpus_<name> FILE...       on these inputs
 *   corpus_<name> FOLDER        on all inputs in it; there must be some
 *   corpus_<name> --seeds FOLDER   writes the inputs from which fuzzing begins
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static void run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	struct stat st;
	size_t size;

	if (!file || fstat(fileno(file), &st) != 0) {
		perror(path);
		exit(2);
	}
	size = (size_t)st.st_size;
	data = malloc(size ? size : 1);
	if (!data || fread(data, 1, size, file) != size) {
		perror(path);
		exit(2);
	}
	fclose(file);
	/* Seen if the target does not come back. */
	fprintf(stderr, "%s\n", path);
	LLVMFuzzerTestOneInput(data, size);
	free(data);
}

static unsigned run_folder(const char *path)
{
	struct dirent **list = NULL;
	int n = scandir(path, &list, NULL, alphasort);
	unsigned files = 0;

	if (n < 0) {
		perror(path);
		exit(2);
	}
	for (int i = 0; i < n; i++) {
		char name[4096];

		snprintf(name, sizeof(name), "%s/%s", path, list[i]->d_name);
		if (list[i]->d_name[0] != '.') {
			run_file(name);
			files++;
		}
		free(list[i]);
	}
	free(list);
	return files;
}

int main(int argc, char **argv)
{
	unsigned files = 0;

	if (argc == 3 && strcmp(argv[1], "--seeds") == 0) {
		fuzz_seeds(argv[2]);
		return 0;
	}
	for (int i = 1; i < argc; i++) {
		struct stat st;

		if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode)) {
			files += run_folder(argv[i]);
		} else {
			run_file(argv[i]);
			files++;
		}
	}
	printf("%u inputs\n", files);
	return files == 0;
}
