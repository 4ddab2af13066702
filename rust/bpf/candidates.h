/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The records that the kernel programs and user space share.
 *
 * candidates.rs and filter.rs in rust/discovery/ebpf/ mirror them by hand, and
 * assert the same sizes. Nothing but plain integers belongs here.
 */
#ifndef BUSYWEIGHT_CANDIDATES_H
#define BUSYWEIGHT_CANDIDATES_H

typedef unsigned char __u8;
typedef unsigned int __u32;
typedef unsigned long long __u64;

/* The kernel's TASK_COMM_LEN, the closing NUL included, as two words. */
#define COMM_WORDS 2
#define COMM_BYTES (8 * COMM_WORDS)

/* How many patterns one filter holds. */
#define MAX_PATTERNS 64

/* A comm matches when its bytes under the mask are these bytes. */
struct pattern {
	__u64 bytes[COMM_WORDS];
	__u64 mask[COMM_WORDS];
};

/* Written by user space, read by every hook. */
struct filter {
	/* A task renamed to these bytes is user space asking for its own number; all zero asks nothing. */
	__u64 token[COMM_WORDS];
	__u64 count;
	struct pattern patterns[MAX_PATTERNS];
};

/* Written by the hooks, read by user space. */
struct counters {
	/* Moves after every change of the map. */
	__u64 generation;
	/* Moves after every change that the map refused. */
	__u64 lost;
	/* The tgid that the token's bearer has in the initial pid namespace. */
	__u64 token_tgid;
};

_Static_assert(sizeof(struct pattern) == 32, "mirrored in filter.rs");
_Static_assert(sizeof(struct filter) == 24 + 32 * MAX_PATTERNS, "mirrored in filter.rs");
_Static_assert(sizeof(struct counters) == 24, "mirrored in candidates.rs");

#endif
