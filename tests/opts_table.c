/* SPDX-License-Identifier: BSD-3-Clause */
/* Prints the table of options as the README shows it. */
#include <stdio.h>

#include "opts.h"

int main(void)
{
	const struct opts_doc *doc;

	puts("| variable | default | meaning |");
	puts("|---|---|---|");
	for (doc = opts_docs(); doc->env; doc++)
		printf("| `%s` | %s | %s |\n", doc->env, doc->def, doc->text);
	return 0;
}
