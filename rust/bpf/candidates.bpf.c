// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Keeps a map of the processes whose comm passes a filter, as they come,
 * are renamed and go.
 *
 * Three hooks are enough. A process gets its comm at fork, from the thread that
 * forked it, and changes it by a rename only; every exec renames, after the
 * thread that called it has become the leader. The comm that counts is the
 * leader's, because that is what /proc/PID/comm shows.
 *
 * The hooks must never look at more than the task at hand, must never sleep,
 * and must count every change that the map refuses: user space can mend a gap
 * that it knows of.
 *
 * Nothing is included but the shared records, so that clang alone builds this.
 */
#include "candidates.h"

#define SEC(name) __attribute__((section(name), used))
#define inline_always inline __attribute__((always_inline))

/* The form in which loaders expect a map's type and sizes. */
#define MAP_NUMBER(name, value) int (*name)[value]
#define MAP_TYPE(name, type) typeof(type) *name

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_ANY 0
#define ENOENT 2

/* Helpers are called by their number in the kernel's bpf.h. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*bpf_probe_read_kernel_str)(void *to, __u32 size, const void *from) = (void *)115;
static __u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;

/* The few fields read here; the loader finds their real offsets in the kernel's BTF. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
};

struct task_struct {
	int pid;
	int tgid;
	char comm[COMM_BYTES];
	struct signal_struct *signal;
};
#pragma clang attribute pop

/* GPL-compatible, which the kernel asks of programs that read its memory. */
char _license[] SEC("license") = "Dual MIT/GPL";

/*
 * By tgid: when the process came or was last renamed, in nanoseconds of
 * CLOCK_BOOTTIME. A fork stamps anew, so a reused tgid has another value.
 *
 * Memory for all entries is taken at load: a hook must not fail because the
 * kernel is short of memory just then. The loader sets the number of entries.
 */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
} candidates SEC(".maps");

/* A map rather than constants, so that a reload of the configuration can change it. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct filter);
} filter SEC(".maps");

/* Alone in .bss, so that user space reads all of it in one system call. */
struct counters counters = {};

static inline_always struct filter *the_filter(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&filter, &first);
}

/*
 * The string helper stops at the NUL and the rest stays zero; what lies behind
 * the NUL in the kernel's memory is left over from longer names.
 */
static inline_always void read_comm(__u64 comm[COMM_WORDS], const char *from)
{
	comm[0] = 0;
	comm[1] = 0;
	bpf_probe_read_kernel_str(comm, COMM_BYTES, from);
}

static inline_always int passes(const struct filter *f, const __u64 comm[COMM_WORDS])
{
	for (__u32 i = 0; i < MAX_PATTERNS; i++) {
		const struct pattern *p = &f->patterns[i];

		if (i >= f->count)
			break;
		if ((comm[0] & p->mask[0]) == p->bytes[0] && (comm[1] & p->mask[1]) == p->bytes[1])
			return 1;
	}
	return 0;
}

/*
 * Counted after the change, never before: whoever reads the counter and then
 * the map has seen every change that was counted.
 */
static inline_always void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

static inline_always void put(const struct task_struct *task)
{
	__u32 tgid = task->tgid;
	__u64 named_ns = bpf_ktime_get_boot_ns();

	if (bpf_map_update_elem(&candidates, &tgid, &named_ns, BPF_ANY))
		count(&counters.lost);
	else
		count(&counters.generation);
}

static inline_always void forget(const struct task_struct *task)
{
	__u32 tgid = task->tgid;
	long error = bpf_map_delete_elem(&candidates, &tgid);

	if (!error)
		count(&counters.generation);
	else if (error != -ENOENT)
		count(&counters.lost);
}

/*
 * The hook runs before the new name is written, so the name is taken from the
 * arguments. The renamed task need not be the one that runs: any thread may
 * rename its leader, even one that has exited. Such a leader may be put without
 * leaving an entry for ever: the writer is a living thread of the same process,
 * so the process's last exit is still to come, and it is that exit that forgets.
 */
SEC("tp_btf/task_rename")
int task_rename(__u64 *arguments)
{
	const struct task_struct *task = (const struct task_struct *)arguments[0];
	const char *name = (const char *)arguments[1];
	const struct filter *f = the_filter();
	__u64 comm[COMM_WORDS];

	if (!f)
		return 0;
	read_comm(comm, name);
	if (f->token[0] && comm[0] == f->token[0] && comm[1] == f->token[1])
		counters.token_tgid = task->tgid;
	if (task->pid != task->tgid)
		return 0;
	if (passes(f, comm))
		put(task);
	else
		forget(task);
	return 0;
}

/* The child cannot run, exit or be renamed yet. */
SEC("tp_btf/sched_process_fork")
int sched_process_fork(__u64 *arguments)
{
	const struct task_struct *child = (const struct task_struct *)arguments[1];
	const struct filter *f = the_filter();
	__u64 comm[COMM_WORDS];

	if (!f || child->pid != child->tgid)
		return 0;
	read_comm(comm, child->comm);
	if (passes(f, comm))
		put(child);
	return 0;
}

/*
 * A process goes with its last thread, which need not be its leader. Threads
 * that exit together may both find none living and both forget; the number
 * cannot be used anew before both are through. Only the first argument is read:
 * the others differ between kernels.
 */
SEC("tp_btf/sched_process_exit")
int sched_process_exit(__u64 *arguments)
{
	const struct task_struct *task = (const struct task_struct *)arguments[0];

	if (task->signal->live.counter == 0)
		forget(task);
	return 0;
}
