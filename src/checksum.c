/* SPDX-License-Identifier: BSD-3-Clause */
#include "checksum.h"

#include "ec/kernel.h"

/* crc_table[x]: what four zero bits after the nibble x make of the sum. Sixteen
 * words need no set-up at run time. */
static const uint32_t crc_table[16] = {
	0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
	0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
	0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

uint32_t checksum_more_ref(uint32_t sum, const void *data, size_t bytes)
{
	const uint8_t *at = data;

	sum = ~sum;
	for (size_t i = 0; i < bytes; i++) {
		sum ^= at[i];
		sum = sum >> 4 ^ crc_table[sum & 15];
		sum = sum >> 4 ^ crc_table[sum & 15];
	}
	return ~sum;
}

uint32_t checksum_more(uint32_t sum, const void *data, size_t bytes)
{
	const struct kernel_ops *k = kernel();

	return k->crc32c ? k->crc32c(sum, data, bytes) : checksum_more_ref(sum, data, bytes);
}

uint32_t checksum(const void *data, size_t bytes)
{
	return checksum_more(0, data, bytes);
}

uint64_t digest_more(uint64_t digest, const void *data, size_t bytes)
{
	const uint8_t *at = data;

	for (size_t i = 0; i < bytes; i++)
		digest = (digest ^ at[i]) * UINT64_C(0x100000001b3);
	return digest;
}
