/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Functions of the library through which several test programs send its own callers, to do
 * something at that point: link with --wrap for those that are defined.
 */
#ifndef FTMEM_TEST_WRAPPED_H
#define FTMEM_TEST_WRAPPED_H

#include "checksum.h"
#include "copy_read.h"
#include "copy_write.h"
#include "ec/codec.h"
#include "move.h"
#include "net.h"
#include "slot.h"
#include "transfer.h"

void __real_slot_set_empty(struct slot *s);
void __wrap_slot_set_empty(struct slot *s);
void __real_slot_set_filling(struct slot *s, struct stamp stamp);
void __wrap_slot_set_filling(struct slot *s, struct stamp stamp);
void __real_slot_set_prepared(struct slot *s, struct stamp stamp);
void __wrap_slot_set_prepared(struct slot *s, struct stamp stamp);
void __real_slot_set_committed(struct slot *s);
void __wrap_slot_set_committed(struct slot *s);
uint64_t __real_slot_verify(const struct slot *s,
                            void (*bad)(void *, uint32_t, bool, uint32_t, uint32_t), void *arg);
uint64_t __wrap_slot_verify(const struct slot *s,
                            void (*bad)(void *, uint32_t, bool, uint32_t, uint32_t), void *arg);
void __real_copy_read_block(const struct copy_job *job, uint32_t index);
void __wrap_copy_read_block(const struct copy_job *job, uint32_t index);
bool __real_copy_fill_block(const struct copy_fill *fill, uint32_t index);
bool __wrap_copy_fill_block(const struct copy_fill *fill, uint32_t index);
uint32_t __real_checksum(const void *data, size_t bytes);
uint32_t __wrap_checksum(const void *data, size_t bytes);
void __real_codec_encode(const struct codec *c, uint32_t row, size_t len, const uint8_t *const *src,
                         uint8_t *dst);
void __wrap_codec_encode(const struct codec *c, uint32_t row, size_t len, const uint8_t *const *src,
                         uint8_t *dst);
void __real_codec_decode(const struct codec_decoder *d, size_t len, const uint8_t *const *src,
                         uint8_t *const *dst);
void __wrap_codec_decode(const struct codec_decoder *d, size_t len, const uint8_t *const *src,
                         uint8_t *const *dst);
int __real_move_restore(struct rescue *r, struct move_report *report);
int __wrap_move_restore(struct rescue *r, struct move_report *report);
int __real_transfer_run(const struct transfer_config *config, const struct transfer_stream *out,
                        uint32_t outs, const struct transfer_stream *in, uint32_t ins);
int __wrap_transfer_run(const struct transfer_config *config, const struct transfer_stream *out,
                        uint32_t outs, const struct transfer_stream *in, uint32_t ins);
int __real_net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         uint64_t deadline_ns, const char *what);
int __wrap_net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         uint64_t deadline_ns, const char *what);

#endif
