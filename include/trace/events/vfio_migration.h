/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vfio_migration

#if !defined(_TRACE_VFIO_MIGRATION_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_VFIO_MIGRATION_H

#include <linux/tracepoint.h>
#include <linux/vfio_migration_compat.h>

/* The values are those of version 2 of the protocol */
#define vfio_migration_state_name(state)	\
	__print_symbolic(state,			\
		{ 0, "ERROR" },			\
		{ 1, "STOP" },			\
		{ 2, "RUNNING" },		\
		{ 3, "STOP_COPY" },		\
		{ 4, "RESUMING" },		\
		{ 5, "RUNNING_P2P" },		\
		{ 6, "PRE_COPY" },		\
		{ 7, "PRE_COPY_P2P" })

/* One step from a state to the next, and how it went */
TRACE_EVENT(vfio_migration_step,
	    TP_PROTO(const char *device, u32 from, u32 to, int ret),
	    TP_ARGS(device, from, to, ret),
	    TP_STRUCT__entry(__string(device, device)
			     __field(u32, from)
			     __field(u32, to)
			     __field(int, ret)),
	    TP_fast_assign(vfm_assign_str(device, device);
			   __entry->from = from;
			   __entry->to = to;
			   __entry->ret = ret;),
	    TP_printk("%s %s -> %s ret=%d", __get_str(device),
		      vfio_migration_state_name(__entry->from),
		      vfio_migration_state_name(__entry->to), __entry->ret)
);

/* A piece of the stream that userspace can read, or has written */
TRACE_EVENT(vfio_migration_chunk,
	    TP_PROTO(const char *device, bool load, bool direct, u64 bytes,
		     u64 before),
	    TP_ARGS(device, load, direct, bytes, before),
	    TP_STRUCT__entry(__string(device, device)
			     __field(bool, load)
			     __field(bool, direct)
			     __field(u64, bytes)
			     __field(u64, before)),
	    TP_fast_assign(vfm_assign_str(device, device);
			   __entry->load = load;
			   __entry->direct = direct;
			   __entry->bytes = bytes;
			   __entry->before = before;),
	    TP_printk("%s %s%s bytes=%llu before=%llu", __get_str(device),
		      __entry->load ? "load" : "save",
		      __entry->direct ? " direct" : "", __entry->bytes,
		      __entry->before)
);

/* A stream is not what it should be */
TRACE_EVENT(vfio_migration_refuse,
	    TP_PROTO(const char *device, const char *reason, u64 at),
	    TP_ARGS(device, reason, at),
	    TP_STRUCT__entry(__string(device, device)
			     __string(reason, reason)
			     __field(u64, at)),
	    TP_fast_assign(vfm_assign_str(device, device);
			   vfm_assign_str(reason, reason);
			   __entry->at = at;),
	    TP_printk("%s at=%llu: %s", __get_str(device), __entry->at,
		      __get_str(reason))
);

#endif /* _TRACE_VFIO_MIGRATION_H */

#include <trace/define_trace.h>
