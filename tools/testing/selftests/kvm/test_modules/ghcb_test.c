// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of the GHCB: layout, accessors and MSR protocol.
 *
 * Offsets, bits and message layouts are written out here as AMD publication
 * 56421 has them and never taken from the headers that are tested. A case
 * stops at the first mismatch, because KUnit keeps only 512 bytes of log for
 * a case and the verdict is the last of them.
 */
#include <kunit/test.h>
#include <linux/bitops.h>
#include <linux/hrtimer.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/stddef.h>
#include <linux/string.h>
#include <linux/types.h>

/*
 * Sanitizers instrument these functions, wherever they are inlined: count how
 * often an accessor uses one.
 */
static unsigned int instrumented;

#ifdef __SVM_H
#error "asm/svm.h is included before its bit functions are counted"
#endif
#define test_bit(nr, addr)	(instrumented++, (test_bit)(nr, addr))
#define __set_bit(nr, addr)	(instrumented++, (__set_bit)(nr, addr))
#include <asm/svm.h>
#undef test_bit
#undef __set_bit

#include <asm/sev-es.h>

/* As a driver does that has its own for kernels without the header's */
#ifndef GHCB_MSR_PSC_REQ
enum psc_op {
	SNP_PAGE_STATE_PRIVATE = 1,
	SNP_PAGE_STATE_SHARED = 2,
};
#endif

#define PAGE_BYTES	4096
#define BITMAP_OFFSET	0x3f0
#define BITMAP_BITS	128

/**
 * struct field - A field with accessors, and where it has to be
 * @name: as in the accessors' names
 * @offset: bytes from the start of the page
 * @size: bytes
 * @bit: index in valid_bitmap
 * @is_valid: accessor
 * @set: accessor
 * @get: accessor
 * @get_if_valid: accessor
 * @wait: reads by @get until it is not 0, or very often
 * @wait_if_valid: the same by @get_if_valid
 * @wait_valid: asks @is_valid until it is true, or very often
 * @inlined: how many of the accessors are inlined by all means
 */
struct field {
	const char *name;
	unsigned int offset;
	unsigned int size;
	unsigned int bit;
	bool (*is_valid)(const struct ghcb *ghcb);
	void (*set)(struct ghcb *ghcb, u64 value);
	u64 (*get)(const struct ghcb *ghcb);
	u64 (*get_if_valid)(const struct ghcb *ghcb);
	u64 (*wait)(const struct ghcb *ghcb);
	u64 (*wait_if_valid)(const struct ghcb *ghcb);
	bool (*wait_valid)(const struct ghcb *ghcb);
	unsigned int inlined;
};

/* What a page may hold before an accessor touches it */
static const u8 backgrounds[] = { 0x00, 0xff, 0xa5 };

static const u64 values[] = {
	0,
	1,
	2,
	3,
	0x7f,
	0x80,
	0xff,
	0x100,
	0xffffffff,
	0x100000000,
	0x0123456789abcdef,
	0x7fffffffffffffff,
	0x8000000000000000,
	0xffffffffffffffff,
};

static u64 cut(const struct field *f, u64 value)
{
	return f->size == 1 ? (u8)value : value;
}

/* The bitmap's bytes by hand, not by the bit functions the accessors use */
static void raw_mark(u8 *page, unsigned int bit, bool valid)
{
	u8 *byte = page + BITMAP_OFFSET + bit / 8;

	if (valid)
		*byte |= 1 << bit % 8;
	else
		*byte &= ~(1 << bit % 8);
}

static void raw_store(u8 *page, const struct field *f, u64 value)
{
	memcpy(page + f->offset, &value, f->size);
}

static u8 *new_page(struct kunit *test)
{
	u8 *page = kunit_kzalloc(test, PAGE_BYTES, GFP_KERNEL);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, page);
	return page;
}

static bool same_page(struct kunit *test, const char *what, const u8 *expected,
		      const u8 *seen)
{
	unsigned int i;

	for (i = 0; i < PAGE_BYTES; i++) {
		if (expected[i] == seen[i])
			continue;
		KUNIT_FAIL(test, "%s: page byte %#x: expected %#x, seen %#x\n",
			   what, i, expected[i], seen[i]);
		return false;
	}
	return true;
}

static bool same_value(struct kunit *test, const char *what, u64 expected,
		       u64 seen)
{
	if (expected == seen)
		return true;
	KUNIT_FAIL(test, "%s: expected %#llx, seen %#llx\n", what, expected,
		   seen);
	return false;
}

/*
 * The accessors of a field. The loops are compiled with the accessor in them: a
 * getter that the compiler may read ahead of a loop never sees a change.
 */
#define TRIES	0x4000000UL

#define FIELD_ACCESSORS(_name)							\
	static noinline u64 wait_##_name(const struct ghcb *ghcb)		\
	{									\
		unsigned long n = TRIES;					\
		u64 value;							\
										\
		do {								\
			value = ghcb_get_##_name(ghcb);				\
		} while (!value && --n);					\
		return value;							\
	}									\
										\
	static noinline u64 wait_##_name##_if_valid(const struct ghcb *ghcb)	\
	{									\
		unsigned long n = TRIES;					\
		u64 value;							\
										\
		do {								\
			value = ghcb_get_##_name##_if_valid(ghcb);		\
		} while (!value && --n);					\
		return value;							\
	}									\
										\
	static noinline bool wait_##_name##_valid(const struct ghcb *ghcb)	\
	{									\
		unsigned long n = TRIES;					\
		bool valid;							\
										\
		do {								\
			valid = ghcb_##_name##_is_valid(ghcb);			\
		} while (!valid && --n);					\
		return valid;							\
	}

FIELD_ACCESSORS(cpl)
FIELD_ACCESSORS(xss)
FIELD_ACCESSORS(rip)
FIELD_ACCESSORS(rsp)
FIELD_ACCESSORS(rax)
FIELD_ACCESSORS(rcx)
FIELD_ACCESSORS(rdx)
FIELD_ACCESSORS(rbx)
FIELD_ACCESSORS(rbp)
FIELD_ACCESSORS(rsi)
FIELD_ACCESSORS(rdi)
FIELD_ACCESSORS(r8)
FIELD_ACCESSORS(r9)
FIELD_ACCESSORS(r10)
FIELD_ACCESSORS(r11)
FIELD_ACCESSORS(r12)
FIELD_ACCESSORS(r13)
FIELD_ACCESSORS(r14)
FIELD_ACCESSORS(r15)
FIELD_ACCESSORS(sw_exit_code)
FIELD_ACCESSORS(sw_exit_info_1)
FIELD_ACCESSORS(sw_exit_info_2)
FIELD_ACCESSORS(sw_scratch)
FIELD_ACCESSORS(xcr0)

#define FIELD(_name, _offset, _size, _bit)					\
	{									\
		.name = #_name,							\
		.offset = (_offset),						\
		.size = (_size),						\
		.bit = (_bit),							\
		.is_valid = ghcb_##_name##_is_valid,				\
		.set = ghcb_set_##_name,					\
		.get = ghcb_get_##_name,					\
		.get_if_valid = ghcb_get_##_name##_if_valid,			\
		.wait = wait_##_name,						\
		.wait_if_valid = wait_##_name##_if_valid,			\
		.wait_valid = wait_##_name##_valid,				\
		.inlined = is_inlined(ghcb_##_name##_is_valid) +		\
			   is_inlined(ghcb_set_##_name) +			\
			   is_inlined(ghcb_get_##_name) +			\
			   is_inlined(ghcb_get_##_name##_if_valid),		\
	}

#define is_inlined(f)	__builtin_has_attribute(f, always_inline)

static const struct field fields[] = {
	FIELD(cpl, 0x0cb, 1, 25),
	FIELD(xss, 0x140, 8, 40),
	FIELD(rip, 0x178, 8, 47),
	FIELD(rsp, 0x1d8, 8, 59),
	FIELD(rax, 0x1f8, 8, 63),
	FIELD(rcx, 0x308, 8, 97),
	FIELD(rdx, 0x310, 8, 98),
	FIELD(rbx, 0x318, 8, 99),
	FIELD(rbp, 0x328, 8, 101),
	FIELD(rsi, 0x330, 8, 102),
	FIELD(rdi, 0x338, 8, 103),
	FIELD(r8, 0x340, 8, 104),
	FIELD(r9, 0x348, 8, 105),
	FIELD(r10, 0x350, 8, 106),
	FIELD(r11, 0x358, 8, 107),
	FIELD(r12, 0x360, 8, 108),
	FIELD(r13, 0x368, 8, 109),
	FIELD(r14, 0x370, 8, 110),
	FIELD(r15, 0x378, 8, 111),
	FIELD(sw_exit_code, 0x390, 8, 114),
	FIELD(sw_exit_info_1, 0x398, 8, 115),
	FIELD(sw_exit_info_2, 0x3a0, 8, 116),
	FIELD(sw_scratch, 0x3a8, 8, 117),
	FIELD(xcr0, 0x3e8, 8, 125),
};

/* A setter stores its value and its bit, and changes no other bit of 4096 bytes */
static bool check_set(struct kunit *test, const struct field *f, u8 *page,
		      u8 *expected)
{
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(backgrounds); i++) {
		for (j = 0; j < ARRAY_SIZE(values); j++) {
			memset(page, backgrounds[i], PAGE_BYTES);
			raw_mark(page, f->bit, false);
			memcpy(expected, page, PAGE_BYTES);
			raw_store(expected, f, values[j]);
			raw_mark(expected, f->bit, true);

			f->set((struct ghcb *)page, values[j]);
			if (!same_page(test, f->name, expected, page))
				return false;
			if (!same_value(test, f->name, cut(f, values[j]),
					f->get((struct ghcb *)page)))
				return false;
			/* Setting it again changes nothing */
			f->set((struct ghcb *)page, values[j]);
			if (!same_page(test, f->name, expected, page))
				return false;
		}
	}
	return true;
}

/* A getter gives the field whatever the bitmap says, and changes nothing */
static bool check_get(struct kunit *test, const struct field *f, u8 *page,
		      u8 *expected)
{
	unsigned int i, j, valid;

	for (i = 0; i < ARRAY_SIZE(backgrounds); i++) {
		for (j = 0; j < ARRAY_SIZE(values); j++) {
			for (valid = 0; valid <= 1; valid++) {
				memset(page, backgrounds[i], PAGE_BYTES);
				raw_store(page, f, values[j]);
				raw_mark(page, f->bit, valid);
				memcpy(expected, page, PAGE_BYTES);

				if (!same_value(test, f->name,
						cut(f, values[j]),
						f->get((struct ghcb *)page)))
					return false;
				if (!same_page(test, f->name, expected, page))
					return false;
			}
		}
	}
	return true;
}

/* The same, and 0 for a field that is not valid even if all others are */
static bool check_get_if_valid(struct kunit *test, const struct field *f,
			       u8 *page, u8 *expected)
{
	unsigned int i, j, valid;

	for (i = 0; i < ARRAY_SIZE(backgrounds); i++) {
		for (j = 0; j < ARRAY_SIZE(values); j++) {
			for (valid = 0; valid <= 1; valid++) {
				memset(page, backgrounds[i], PAGE_BYTES);
				memset(page + BITMAP_OFFSET, valid ? 0x00 : 0xff,
				       BITMAP_BITS / 8);
				raw_store(page, f, values[j]);
				raw_mark(page, f->bit, valid);
				memcpy(expected, page, PAGE_BYTES);

				if (!same_value(test, f->name,
						valid ? cut(f, values[j]) : 0,
						f->get_if_valid((struct ghcb *)page)))
					return false;
				if (!same_page(test, f->name, expected, page))
					return false;
			}
		}
	}
	return true;
}

/* One bit of the 128 decides, and it alone */
static bool check_is_valid(struct kunit *test, const struct field *f, u8 *page,
			   u8 *expected)
{
	unsigned int bit;
	bool seen, ours;

	for (bit = 0; bit < BITMAP_BITS; bit++) {
		ours = bit == f->bit;

		memset(page, 0, PAGE_BYTES);
		raw_mark(page, bit, true);
		seen = f->is_valid((struct ghcb *)page);
		if (seen != ours) {
			KUNIT_FAIL(test, "%s: only bit %u set: seen %d\n",
				   f->name, bit, seen);
			return false;
		}

		memset(page, 0xff, PAGE_BYTES);
		raw_mark(page, bit, false);
		seen = f->is_valid((struct ghcb *)page);
		if (seen == ours) {
			KUNIT_FAIL(test, "%s: all but bit %u set: seen %d\n",
				   f->name, bit, seen);
			return false;
		}
	}
	return true;
}

static void check_fields(struct kunit *test,
			 bool (*check)(struct kunit *test, const struct field *f,
				       u8 *page, u8 *expected))
{
	u8 *expected = new_page(test);
	u8 *page = new_page(test);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(fields); i++)
		if (!check(test, &fields[i], page, expected))
			return;
}

static void accessors_set(struct kunit *test)
{
	check_fields(test, check_set);
}

static void accessors_get(struct kunit *test)
{
	check_fields(test, check_get);
}

static void accessors_get_if_valid(struct kunit *test)
{
	check_fields(test, check_get_if_valid);
}

static void accessors_is_valid(struct kunit *test)
{
	check_fields(test, check_is_valid);
}

/* All of them in one page: each keeps its value, no two share a bit */
static void accessors_set_all(struct kunit *test)
{
	u8 *expected = new_page(test);
	u8 *page = new_page(test);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		u64 value = 0x1111111111111111 * (i + 1) + 0x80 + i;

		raw_store(expected, &fields[i], value);
		raw_mark(expected, fields[i].bit, true);
		fields[i].set((struct ghcb *)page, value);
	}
	same_page(test, "all", expected, page);
}

/* noinstr code has none of the functions that a sanitizer looks into. */
static void accessors_fit_for_noinstr(struct kunit *test)
{
	struct ghcb *ghcb = (struct ghcb *)new_page(test);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		instrumented = 0;
		fields[i].set(ghcb, 1);
		fields[i].get(ghcb);
		fields[i].get_if_valid(ghcb);
		fields[i].is_valid(ghcb);
		if (instrumented || fields[i].inlined != 4) {
			KUNIT_FAIL(test, "%s: %u instrumented calls, %u of 4 inlined\n",
				   fields[i].name, instrumented,
				   fields[i].inlined);
			return;
		}
	}
}

/* The other side, which writes while this one looks */
struct writer {
	struct hrtimer timer;
	const struct field *field;
	u8 *page;
};

static enum hrtimer_restart write_page(struct hrtimer *timer)
{
	struct writer *w = container_of(timer, struct writer, timer);

	raw_store(w->page, w->field, 0x5a);
	raw_mark(w->page, w->field->bit, true);
	return HRTIMER_NORESTART;
}

static void start_writer(struct writer *w)
{
	memset(w->page, 0, PAGE_BYTES);
	hrtimer_start(&w->timer, ns_to_ktime(200 * NSEC_PER_USEC),
		      HRTIMER_MODE_REL_PINNED_HARD);
}

/* What the other side writes is seen: each call of a getter reads the page. */
static void accessors_read_again(struct kunit *test)
{
	struct ghcb *ghcb = (struct ghcb *)new_page(test);
	struct writer w = { .page = (u8 *)ghcb };
	u64 get, get_if_valid;
	unsigned int i;
	bool valid;

	hrtimer_init(&w.timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	w.timer.function = write_page;
	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		w.field = &fields[i];
		start_writer(&w);
		get = fields[i].wait(ghcb);
		hrtimer_cancel(&w.timer);
		start_writer(&w);
		get_if_valid = fields[i].wait_if_valid(ghcb);
		hrtimer_cancel(&w.timer);
		start_writer(&w);
		valid = fields[i].wait_valid(ghcb);
		hrtimer_cancel(&w.timer);
		if (get == 0x5a && get_if_valid == 0x5a && valid)
			continue;
		KUNIT_FAIL(test, "%s: get %#llx, get_if_valid %#llx, is_valid %d\n",
			   fields[i].name, get, get_if_valid, valid);
		return;
	}
}

struct expectation {
	const char *what;
	u64 expected;
	u64 seen;
};

static void check_all(struct kunit *test, const struct expectation *e, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		if (!same_value(test, e[i].what, e[i].expected, e[i].seen))
			return;
	}
}

#define OFFSET(_type, _member, _offset)						\
	{ .what = #_member, .expected = (_offset),				\
	  .seen = offsetof(_type, _member) }

static void layout_page(struct kunit *test)
{
	static const struct expectation e[] = {
		OFFSET(struct ghcb, save, 0),
		OFFSET(struct ghcb, shared_buffer, 0x800),
		OFFSET(struct ghcb, protocol_version, 0xffa),
		OFFSET(struct ghcb, ghcb_usage, 0xffc),
		{ "sizeof shared_buffer", 2032,
		  sizeof_field(struct ghcb, shared_buffer) },
		{ "sizeof protocol_version", 2,
		  sizeof_field(struct ghcb, protocol_version) },
		{ "sizeof ghcb_usage", 4, sizeof_field(struct ghcb, ghcb_usage) },
		{ "sizeof ghcb", 4096, sizeof(struct ghcb) },
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void layout_save_area(struct kunit *test)
{
	static const struct expectation e[] = {
		OFFSET(struct vmcb_save_area, cpl, 0x0cb),
		OFFSET(struct vmcb_save_area, xss, 0x140),
		OFFSET(struct vmcb_save_area, dr7, 0x160),
		OFFSET(struct vmcb_save_area, rip, 0x178),
		OFFSET(struct vmcb_save_area, rsp, 0x1d8),
		OFFSET(struct vmcb_save_area, rax, 0x1f8),
		OFFSET(struct vmcb_save_area, rcx, 0x308),
		OFFSET(struct vmcb_save_area, rdx, 0x310),
		OFFSET(struct vmcb_save_area, rbx, 0x318),
		OFFSET(struct vmcb_save_area, rbp, 0x328),
		OFFSET(struct vmcb_save_area, rsi, 0x330),
		OFFSET(struct vmcb_save_area, rdi, 0x338),
		OFFSET(struct vmcb_save_area, r8, 0x340),
		OFFSET(struct vmcb_save_area, r9, 0x348),
		OFFSET(struct vmcb_save_area, r10, 0x350),
		OFFSET(struct vmcb_save_area, r11, 0x358),
		OFFSET(struct vmcb_save_area, r12, 0x360),
		OFFSET(struct vmcb_save_area, r13, 0x368),
		OFFSET(struct vmcb_save_area, r14, 0x370),
		OFFSET(struct vmcb_save_area, r15, 0x378),
		OFFSET(struct vmcb_save_area, sw_exit_code, 0x390),
		OFFSET(struct vmcb_save_area, sw_exit_info_1, 0x398),
		OFFSET(struct vmcb_save_area, sw_exit_info_2, 0x3a0),
		OFFSET(struct vmcb_save_area, sw_scratch, 0x3a8),
		OFFSET(struct vmcb_save_area, xcr0, 0x3e8),
		OFFSET(struct vmcb_save_area, valid_bitmap, 0x3f0),
		OFFSET(struct vmcb_save_area, x87_state_gpa, 0x400),
		{ "sizeof valid_bitmap", 16,
		  sizeof_field(struct vmcb_save_area, valid_bitmap) },
	};

	check_all(test, e, ARRAY_SIZE(e));
}

/* The structure is the VMCB's too: xss takes nothing from its neighbours */
static void layout_vmcb(struct kunit *test)
{
	static const struct expectation e[] = {
		OFFSET(struct vmcb_save_area, efer, 0x0d0),
		OFFSET(struct vmcb_save_area, cr4, 0x148),
		OFFSET(struct vmcb_save_area, cr3, 0x150),
		OFFSET(struct vmcb_save_area, cr0, 0x158),
		OFFSET(struct vmcb_save_area, dr6, 0x168),
		OFFSET(struct vmcb_save_area, rflags, 0x170),
		OFFSET(struct vmcb_save_area, star, 0x200),
		OFFSET(struct vmcb_save_area, cr2, 0x240),
		OFFSET(struct vmcb_save_area, g_pat, 0x268),
		OFFSET(struct vmcb_save_area, last_excp_to, 0x290),
		OFFSET(struct vmcb, control, 0),
		OFFSET(struct vmcb, save, 0x400),
		{ "sizeof vmcb_save_area", 1032, sizeof(struct vmcb_save_area) },
		{ "sizeof vmcb", 2056, sizeof(struct vmcb) },
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void layout_bitmap(struct kunit *test)
{
	static const struct expectation e[] = {
		{ "cpl", 25, GHCB_BITMAP_IDX(cpl) },
		{ "xss", 40, GHCB_BITMAP_IDX(xss) },
		{ "dr7", 44, GHCB_BITMAP_IDX(dr7) },
		{ "rip", 47, GHCB_BITMAP_IDX(rip) },
		{ "rsp", 59, GHCB_BITMAP_IDX(rsp) },
		{ "rax", 63, GHCB_BITMAP_IDX(rax) },
		{ "rcx", 97, GHCB_BITMAP_IDX(rcx) },
		{ "rdx", 98, GHCB_BITMAP_IDX(rdx) },
		{ "rbx", 99, GHCB_BITMAP_IDX(rbx) },
		{ "rbp", 101, GHCB_BITMAP_IDX(rbp) },
		{ "rsi", 102, GHCB_BITMAP_IDX(rsi) },
		{ "rdi", 103, GHCB_BITMAP_IDX(rdi) },
		{ "r8", 104, GHCB_BITMAP_IDX(r8) },
		{ "r9", 105, GHCB_BITMAP_IDX(r9) },
		{ "r10", 106, GHCB_BITMAP_IDX(r10) },
		{ "r11", 107, GHCB_BITMAP_IDX(r11) },
		{ "r12", 108, GHCB_BITMAP_IDX(r12) },
		{ "r13", 109, GHCB_BITMAP_IDX(r13) },
		{ "r14", 110, GHCB_BITMAP_IDX(r14) },
		{ "r15", 111, GHCB_BITMAP_IDX(r15) },
		{ "sw_exit_code", 114, GHCB_BITMAP_IDX(sw_exit_code) },
		{ "sw_exit_info_1", 115, GHCB_BITMAP_IDX(sw_exit_info_1) },
		{ "sw_exit_info_2", 116, GHCB_BITMAP_IDX(sw_exit_info_2) },
		{ "sw_scratch", 117, GHCB_BITMAP_IDX(sw_scratch) },
		{ "xcr0", 125, GHCB_BITMAP_IDX(xcr0) },
		/* This one has no bit: it would be behind the bitmap's end */
		{ "x87_state_gpa", 128, GHCB_BITMAP_IDX(x87_state_gpa) },
	};

	check_all(test, e, ARRAY_SIZE(e));
}

/*
 * MSR protocol. What is built is compared with the whole 64-bit value: the
 * fields at 0, at their maximum with the neighbours at 0, one beyond it and
 * all ones. What is read is tried with only the field set, and with all but
 * the field set.
 */
#define ALL	hidden(0xffffffffffffffffULL)

/* A constant that does not fit into its field would stop the build. */
static noinline u64 hidden(u64 value)
{
	OPTIMIZER_HIDE_VAR(value);
	return value;
}

#define MSR(_expected, _seen)	{ .what = #_seen, .expected = (_expected), .seen = (_seen) }

static void msr_function_numbers(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x000, GHCB_MSR_GPA),
		MSR(0x001, GHCB_SEV_INFO),
		MSR(0x002, GHCB_SEV_INFO_REQ),
		MSR(0x004, GHCB_SEV_CPUID_REQ),
		MSR(0x005, GHCB_SEV_CPUID_RESP),
		MSR(0x006, GHCB_MSR_AP_RESET_HOLD_REQ),
		MSR(0x007, GHCB_MSR_AP_RESET_HOLD_RESP),
		MSR(0x010, GHCB_MSR_PREF_GPA_REQ),
		MSR(0x011, GHCB_MSR_PREF_GPA_RESP),
		MSR(0x012, GHCB_MSR_REG_GPA_REQ),
		MSR(0x013, GHCB_MSR_REG_GPA_RESP),
		MSR(0x014, GHCB_MSR_PSC_REQ),
		MSR(0x015, GHCB_MSR_PSC_RESP),
		MSR(0x016, GHCB_MSR_VMPL_REQ),
		MSR(0x017, GHCB_MSR_VMPL_RESP),
		MSR(0x080, GHCB_MSR_HV_FT_REQ),
		MSR(0x081, GHCB_MSR_HV_FT_RESP),
		MSR(0x100, GHCB_SEV_TERMINATE),
		MSR(0xfff, GHCB_INFO(ALL)),
		MSR(0x000, GHCB_INFO(~0xfffULL)),
		MSR(0xfff, GHCB_SEV_GHCB_RESP_CODE(ALL)),
		MSR(0x000, GHCB_SEV_GHCB_RESP_CODE(~0xfffULL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
	/* For the table that 'make' prints */
	kunit_log(KERN_INFO, test,
		  "    # answer ghcb: %zu bytes, xss at %#zx, terminate reason set 15 is %#llx",
		  sizeof(struct ghcb), offsetof(struct ghcb, save.xss),
		  GHCB_SEV_TERMINATE_REASON(15, 0));
}

static void msr_ghcb_address(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0, GHCB_MSR_GPA_ADDR(0)),
		MSR(0, GHCB_MSR_GPA_ADDR(0xfff)),
		MSR(0x1000, GHCB_MSR_GPA_ADDR(0x1000)),
		MSR(0x1000, GHCB_MSR_GPA_ADDR(0x1fff)),
		MSR(0xfffffffffffff000, GHCB_MSR_GPA_ADDR(ALL)),
		MSR(0, GHCB_MSR_TO_GPA(0)),
		MSR(0, GHCB_MSR_TO_GPA(0xfff)),
		MSR(0x1000, GHCB_MSR_TO_GPA(0x1000)),
		MSR(0xfffffffffffff000, GHCB_MSR_TO_GPA(ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_sev_info_response(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000000000001, GHCB_SEV_INFO_SET(0, 0, 0)),
		MSR(0x0002000133000001, GHCB_SEV_INFO_SET(2, 1, 51)),
		MSR(0xffff000000000001, GHCB_SEV_INFO_SET(0xffff, 0, 0)),
		MSR(0x0000ffff00000001, GHCB_SEV_INFO_SET(0, 0xffff, 0)),
		MSR(0x00000000ff000001, GHCB_SEV_INFO_SET(0, 0, 0xff)),
		MSR(0x0000000000000001, GHCB_SEV_INFO_SET(hidden(0x10000), 0, 0)),
		MSR(0x0000000000000001, GHCB_SEV_INFO_SET(0, hidden(0x10000), 0)),
		MSR(0x0000000000000001, GHCB_SEV_INFO_SET(0, 0, hidden(0x100))),
		MSR(0xffff000000000001, GHCB_SEV_INFO_SET(ALL, 0, 0)),
		MSR(0x0000ffff00000001, GHCB_SEV_INFO_SET(0, ALL, 0)),
		MSR(0x00000000ff000001, GHCB_SEV_INFO_SET(0, 0, hidden(-1))),
		MSR(0xffffffffff000001, GHCB_SEV_INFO_SET(ALL, ALL, ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_sev_info_fields(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0xffff, GHCB_PROTO_MAX(0xffff000000000000ULL)),
		MSR(0x0000, GHCB_PROTO_MAX(0x0000ffffffffffffULL)),
		MSR(0xffff, GHCB_PROTO_MIN(0x0000ffff00000000ULL)),
		MSR(0x0000, GHCB_PROTO_MIN(0xffff0000ffffffffULL)),
		MSR(0xff, GHCB_SEV_INFO_CBIT(0x00000000ff000000ULL)),
		MSR(0x00, GHCB_SEV_INFO_CBIT(0xffffffff00ffffffULL)),
		MSR(2, GHCB_PROTO_MAX(0x0002000133000001ULL)),
		MSR(1, GHCB_PROTO_MIN(0x0002000133000001ULL)),
		MSR(51, GHCB_SEV_INFO_CBIT(0x0002000133000001ULL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_cpuid_request(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000000000004, GHCB_CPUID_REQ(0, GHCB_CPUID_REQ_EAX)),
		MSR(0x0000000040000004, GHCB_CPUID_REQ(0, GHCB_CPUID_REQ_EBX)),
		MSR(0x0000000080000004, GHCB_CPUID_REQ(0, GHCB_CPUID_REQ_ECX)),
		MSR(0x00000000c0000004, GHCB_CPUID_REQ(0, GHCB_CPUID_REQ_EDX)),
		MSR(0x8000001f00000004, GHCB_CPUID_REQ(0x8000001f, 0)),
		MSR(0xffffffff00000004, GHCB_CPUID_REQ(0xffffffff, 0)),
		MSR(0x0000000000000004, GHCB_CPUID_REQ(0x100000000, 0)),
		MSR(0x0000000000000004, GHCB_CPUID_REQ(0, 4)),
		MSR(0x00000000c0000004, GHCB_CPUID_REQ(0, ALL)),
		MSR(0xffffffffc0000004, GHCB_CPUID_REQ(ALL, ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

/* Arguments that are expressions: all of the expression is cut to the field */
static void msr_cpuid_request_arguments(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000040000004, GHCB_CPUID_REQ(0, 4 | 1)),
		MSR(0x0000000040000004, GHCB_CPUID_REQ(0, 8 + 1)),
		MSR(0x0000000300000004, GHCB_CPUID_REQ(2 | 1, 0)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_cpuid_request_fields(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0xffffffff, GHCB_CPUID_REQ_TO_FN(0xffffffff00000000ULL)),
		MSR(0x00000000, GHCB_CPUID_REQ_TO_FN(0x00000000ffffffffULL)),
		MSR(3, GHCB_CPUID_REQ_TO_REG(0x00000000c0000000ULL)),
		MSR(0, GHCB_CPUID_REQ_TO_REG(0xffffffff3fffffffULL)),
		MSR(2, GHCB_CPUID_REQ_TO_REG(0x0000000080000004ULL)),
		MSR(0x8000001f, GHCB_CPUID_REQ_TO_FN(0x8000001f40000004ULL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_cpuid_response(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000000000005, GHCB_CPUID_RESP_SET(0, 0)),
		MSR(0x0000000040000005, GHCB_CPUID_RESP_SET(1, 0)),
		MSR(0x00000000c0000005, GHCB_CPUID_RESP_SET(3, 0)),
		MSR(0x0000000000000005, GHCB_CPUID_RESP_SET(hidden(4), 0)),
		MSR(0x00000000c0000005, GHCB_CPUID_RESP_SET(ALL, 0)),
		MSR(0xffffffff00000005, GHCB_CPUID_RESP_SET(0, 0xffffffff)),
		MSR(0x0000000000000005, GHCB_CPUID_RESP_SET(0, hidden(0x100000000))),
		MSR(0xffffffffc0000005, GHCB_CPUID_RESP_SET(ALL, ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_cpuid_response_fields(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0xffffffff, GHCB_CPUID_RESP_VAL(0xffffffff00000000ULL)),
		MSR(0x00000000, GHCB_CPUID_RESP_VAL(0x00000000ffffffffULL)),
		MSR(3, GHCB_CPUID_RESP_REG(0x00000000c0000000ULL)),
		MSR(0, GHCB_CPUID_RESP_REG(0xffffffff3fffffffULL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_ap_reset_hold_response(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000000000007, GHCB_MSR_AP_RESET_HOLD_RESP_SET(0)),
		MSR(0x0000000000001007, GHCB_MSR_AP_RESET_HOLD_RESP_SET(1)),
		MSR(0xfffffffffffff007,
		    GHCB_MSR_AP_RESET_HOLD_RESP_SET(0xfffffffffffff)),
		MSR(0x0000000000000007,
		    GHCB_MSR_AP_RESET_HOLD_RESP_SET(hidden(0x10000000000000))),
		MSR(0xfffffffffffff007, GHCB_MSR_AP_RESET_HOLD_RESP_SET(ALL)),
		MSR(0, GHCB_MSR_AP_RESET_HOLD_RESP_VAL(0xfff)),
		MSR(1, GHCB_MSR_AP_RESET_HOLD_RESP_VAL(0x1007)),
		MSR(0x8000000000000,
		    GHCB_MSR_AP_RESET_HOLD_RESP_VAL(0x8000000000000000ULL)),
		MSR(0xfffffffffffff, GHCB_MSR_AP_RESET_HOLD_RESP_VAL(ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_preferred_gpa_response(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0xfffffffffffff, GHCB_MSR_PREF_GPA_NONE),
		MSR(0x0000000000000011, GHCB_MSR_PREF_GPA_RESP_SET(0)),
		MSR(0x0000000000001011, GHCB_MSR_PREF_GPA_RESP_SET(1)),
		MSR(0xfffffffffffff011,
		    GHCB_MSR_PREF_GPA_RESP_SET(GHCB_MSR_PREF_GPA_NONE)),
		MSR(0x0000000000000011,
		    GHCB_MSR_PREF_GPA_RESP_SET(hidden(0x10000000000000))),
		MSR(0xfffffffffffff011, GHCB_MSR_PREF_GPA_RESP_SET(ALL)),
		MSR(0, GHCB_MSR_PREF_GPA_RESP_VAL(0xfff)),
		MSR(0x123456789abcd,
		    GHCB_MSR_PREF_GPA_RESP_VAL(0x123456789abcd011ULL)),
		MSR(0xfffffffffffff, GHCB_MSR_PREF_GPA_RESP_VAL(ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_register_gpa_request(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000000000012, GHCB_MSR_REG_GPA_REQ_VAL(0)),
		MSR(0x0000000000001012, GHCB_MSR_REG_GPA_REQ_VAL(1)),
		MSR(0xfffffffffffff012,
		    GHCB_MSR_REG_GPA_REQ_VAL(0xfffffffffffff)),
		MSR(0x0000000000000012,
		    GHCB_MSR_REG_GPA_REQ_VAL(hidden(0x10000000000000))),
		MSR(0xfffffffffffff012, GHCB_MSR_REG_GPA_REQ_VAL(ALL)),
		MSR(0, GHCB_MSR_REG_GPA_REQ_TO_GFN(0xfff)),
		MSR(0x123456789abcd,
		    GHCB_MSR_REG_GPA_REQ_TO_GFN(0x123456789abcd012ULL)),
		MSR(0xfffffffffffff, GHCB_MSR_REG_GPA_REQ_TO_GFN(ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_register_gpa_response(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000000000013, GHCB_MSR_REG_GPA_RESP_SET(0)),
		MSR(0x0000000000001013, GHCB_MSR_REG_GPA_RESP_SET(1)),
		MSR(0xfffffffffffff013,
		    GHCB_MSR_REG_GPA_RESP_SET(GHCB_MSR_PREF_GPA_NONE)),
		MSR(0x0000000000000013,
		    GHCB_MSR_REG_GPA_RESP_SET(hidden(0x10000000000000))),
		MSR(0xfffffffffffff013, GHCB_MSR_REG_GPA_RESP_SET(ALL)),
		MSR(0, GHCB_MSR_REG_GPA_RESP_VAL(0xfff)),
		MSR(0x123456789abcd,
		    GHCB_MSR_REG_GPA_RESP_VAL(0x123456789abcd013ULL)),
		MSR(0xfffffffffffff, GHCB_MSR_REG_GPA_RESP_VAL(ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_page_state_change_request(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(1, SNP_PAGE_STATE_PRIVATE),
		MSR(2, SNP_PAGE_STATE_SHARED),
		MSR(0x0000000000000014, GHCB_MSR_PSC_REQ_GFN(0, 0)),
		MSR(0x0010000000001014,
		    GHCB_MSR_PSC_REQ_GFN(1, SNP_PAGE_STATE_PRIVATE)),
		MSR(0x0020000000001014,
		    GHCB_MSR_PSC_REQ_GFN(1, SNP_PAGE_STATE_SHARED)),
		MSR(0x000ffffffffff014, GHCB_MSR_PSC_REQ_GFN(0xffffffffff, 0)),
		MSR(0x0000000000000014, GHCB_MSR_PSC_REQ_GFN(hidden(0x10000000000), 0)),
		MSR(0x000ffffffffff014, GHCB_MSR_PSC_REQ_GFN(ALL, 0)),
		MSR(0x00f0000000000014, GHCB_MSR_PSC_REQ_GFN(0, 0xf)),
		MSR(0x0000000000000014, GHCB_MSR_PSC_REQ_GFN(0, hidden(0x10))),
		MSR(0x00f0000000000014, GHCB_MSR_PSC_REQ_GFN(0, ALL)),
		MSR(0x00fffffffffff014, GHCB_MSR_PSC_REQ_GFN(ALL, ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_page_state_change_fields(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0xffffffffff, GHCB_MSR_PSC_REQ_TO_GFN(0x000ffffffffff000ULL)),
		MSR(0, GHCB_MSR_PSC_REQ_TO_GFN(0xfff0000000000fffULL)),
		MSR(0x123456789a, GHCB_MSR_PSC_REQ_TO_GFN(0x002123456789a014ULL)),
		MSR(0xf, GHCB_MSR_PSC_REQ_TO_OP(0x00f0000000000000ULL)),
		MSR(0, GHCB_MSR_PSC_REQ_TO_OP(0xff0fffffffffffffULL)),
		MSR(2, GHCB_MSR_PSC_REQ_TO_OP(0x002123456789a014ULL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_page_state_change_response(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000000000015, GHCB_MSR_PSC_RESP_SET(0)),
		MSR(0x0000000100000015, GHCB_MSR_PSC_RESP_SET(1)),
		MSR(0xffffffff00000015, GHCB_MSR_PSC_RESP_SET(0xffffffff)),
		MSR(0x0000000000000015, GHCB_MSR_PSC_RESP_SET(hidden(0x100000000))),
		MSR(0xffffffff00000015, GHCB_MSR_PSC_RESP_SET(ALL)),
		MSR(0, GHCB_MSR_PSC_RESP_VAL(0x00000000ffffffffULL)),
		MSR(1, GHCB_MSR_PSC_RESP_VAL(0x0000000100000015ULL)),
		MSR(0xffffffff, GHCB_MSR_PSC_RESP_VAL(0xffffffff00000000ULL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_vmpl_request(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000000000016, GHCB_MSR_VMPL_REQ_LEVEL(0)),
		MSR(0x0000000300000016, GHCB_MSR_VMPL_REQ_LEVEL(3)),
		MSR(0x000000ff00000016, GHCB_MSR_VMPL_REQ_LEVEL(0xff)),
		MSR(0x0000000000000016, GHCB_MSR_VMPL_REQ_LEVEL(hidden(0x100))),
		MSR(0x000000ff00000016, GHCB_MSR_VMPL_REQ_LEVEL(ALL)),
		MSR(0xff, GHCB_MSR_VMPL_REQ_TO_LEVEL(0x000000ff00000000ULL)),
		MSR(0, GHCB_MSR_VMPL_REQ_TO_LEVEL(0xffffff00ffffffffULL)),
		MSR(3, GHCB_MSR_VMPL_REQ_TO_LEVEL(0x0000000300000016ULL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_vmpl_response(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000000000000017, GHCB_MSR_VMPL_RESP_SET(0)),
		MSR(0x0000000100000017, GHCB_MSR_VMPL_RESP_SET(1)),
		MSR(0xffffffff00000017, GHCB_MSR_VMPL_RESP_SET(0xffffffff)),
		MSR(0x0000000000000017, GHCB_MSR_VMPL_RESP_SET(hidden(0x100000000))),
		MSR(0xffffffff00000017, GHCB_MSR_VMPL_RESP_SET(ALL)),
		MSR(0, GHCB_MSR_VMPL_RESP_VAL(0x00000000ffffffffULL)),
		MSR(1, GHCB_MSR_VMPL_RESP_VAL(0x0000000100000017ULL)),
		MSR(0xffffffff, GHCB_MSR_VMPL_RESP_VAL(0xffffffff00000000ULL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_features_response(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x01, GHCB_HV_FT_SNP),
		MSR(0x02, GHCB_HV_FT_SNP_AP_CREATION),
		MSR(0x20, GHCB_HV_FT_SNP_MULTI_VMPL),
		MSR(0x0000000000000081, GHCB_MSR_HV_FT_RESP_SET(0)),
		MSR(0x0000000000001081, GHCB_MSR_HV_FT_RESP_SET(GHCB_HV_FT_SNP)),
		MSR(0xfffffffffffff081,
		    GHCB_MSR_HV_FT_RESP_SET(0xfffffffffffff)),
		MSR(0x0000000000000081,
		    GHCB_MSR_HV_FT_RESP_SET(hidden(0x10000000000000))),
		MSR(0xfffffffffffff081, GHCB_MSR_HV_FT_RESP_SET(ALL)),
		MSR(0, GHCB_MSR_HV_FT_RESP_VAL(0xfff)),
		MSR(0x23, GHCB_MSR_HV_FT_RESP_VAL(0x23081)),
		MSR(0xfffffffffffff, GHCB_MSR_HV_FT_RESP_VAL(ALL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_terminate_reason(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x000000, GHCB_SEV_TERMINATE_REASON(0, 0)),
		MSR(0x001000, GHCB_SEV_TERMINATE_REASON(1, 0)),
		MSR(0x007000, GHCB_SEV_TERMINATE_REASON(7, 0)),
		MSR(0x008000, GHCB_SEV_TERMINATE_REASON(8, 0)),
		MSR(0x00f000, GHCB_SEV_TERMINATE_REASON(0xf, 0)),
		MSR(0x000000, GHCB_SEV_TERMINATE_REASON(0x10, 0)),
		MSR(0x00f000, GHCB_SEV_TERMINATE_REASON(ALL, 0)),
		MSR(0x010000, GHCB_SEV_TERMINATE_REASON(0, 1)),
		MSR(0xff0000, GHCB_SEV_TERMINATE_REASON(0, 0xff)),
		MSR(0x000000, GHCB_SEV_TERMINATE_REASON(0, 0x100)),
		MSR(0xff0000, GHCB_SEV_TERMINATE_REASON(0, ALL)),
		MSR(0xfff000, GHCB_SEV_TERMINATE_REASON(-1, -1)),
		MSR(0x021000, GHCB_SEV_TERMINATE_REASON(0x10 | 1, 0x100 | 2)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static void msr_terminate_request(struct kunit *test)
{
	const struct expectation e[] = {
		MSR(0x0000100, GHCB_SEV_TERMINATE_REQ(0, 0)),
		MSR(0x002f100, GHCB_SEV_TERMINATE_REQ(0xf, 2)),
		MSR(0x0fff100, GHCB_SEV_TERMINATE_REQ(ALL, ALL)),
		MSR(0xf, GHCB_SEV_TERMINATE_TO_SET(0x000000000000f000ULL)),
		MSR(0, GHCB_SEV_TERMINATE_TO_SET(0xffffffffffff0fffULL)),
		MSR(8, GHCB_SEV_TERMINATE_TO_SET(0x8100)),
		MSR(0xff, GHCB_SEV_TERMINATE_TO_VAL(0x0000000000ff0000ULL)),
		MSR(0, GHCB_SEV_TERMINATE_TO_VAL(0xffffffffff00ffffULL)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

/*
 * Arguments that are neither constant nor 64 bits wide: they have to be widened
 * before they are shifted.
 */
static void msr_narrow_arguments(struct kunit *test)
{
	u32 word = READ_ONCE(values[8]);
	u16 half = READ_ONCE(values[8]);
	u8 byte = READ_ONCE(values[6]);
	const struct expectation e[] = {
		MSR(0x00000000fffff000, GHCB_MSR_GPA_ADDR(word)),
		MSR(0xffffffffff000001, GHCB_SEV_INFO_SET(half, half, byte)),
		MSR(0xffffffffc0000004, GHCB_CPUID_REQ(word, byte)),
		MSR(0xffffffffc0000005, GHCB_CPUID_RESP_SET(byte, word)),
		MSR(0x00000ffffffff007, GHCB_MSR_AP_RESET_HOLD_RESP_SET(word)),
		MSR(0x00000ffffffff011, GHCB_MSR_PREF_GPA_RESP_SET(word)),
		MSR(0x00000ffffffff012, GHCB_MSR_REG_GPA_REQ_VAL(word)),
		MSR(0x00000ffffffff013, GHCB_MSR_REG_GPA_RESP_SET(word)),
		MSR(0x00f00ffffffff014, GHCB_MSR_PSC_REQ_GFN(word, byte)),
		MSR(0xffffffff00000015, GHCB_MSR_PSC_RESP_SET(word)),
		MSR(0x000000ff00000016, GHCB_MSR_VMPL_REQ_LEVEL(byte)),
		MSR(0xffffffff00000017, GHCB_MSR_VMPL_RESP_SET(word)),
		MSR(0x00000ffffffff081, GHCB_MSR_HV_FT_RESP_SET(word)),
		MSR(0x0000000000fff100, GHCB_SEV_TERMINATE_REQ(byte, byte)),
		MSR(0, GHCB_MSR_PSC_RESP_VAL(word)),
		MSR(0xfffff, GHCB_MSR_REG_GPA_RESP_VAL(word)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

/*
 * Arguments that are expressions: what binds less than a cast, a shift or a mask
 * is taken as a whole.
 */
static void msr_expression_arguments(struct kunit *test)
{
	u64 yes = hidden(1), all = hidden(ALL);
	const struct expectation e[] = {
		MSR(0xfffffffffffff000, GHCB_MSR_GPA_ADDR(yes ? all : 0)),
		MSR(0xfffffffffffff000, GHCB_MSR_TO_GPA(yes ? all : 0)),
		MSR(0xffff000000000001, GHCB_SEV_INFO_SET(yes ? all : 0, 0, 0)),
		MSR(0x0000ffff00000001, GHCB_SEV_INFO_SET(0, yes ? all : 0, 0)),
		MSR(0x00000000ff000001, GHCB_SEV_INFO_SET(0, 0, yes ? all : 0)),
		MSR(0xff, GHCB_SEV_INFO_CBIT(yes ? all : 0)),
		MSR(0xffffffff, GHCB_CPUID_REQ_TO_FN(yes ? all : 0)),
		MSR(3, GHCB_CPUID_REQ_TO_REG(yes ? all : 0)),
		MSR(0x00000000c0000005, GHCB_CPUID_RESP_SET(yes ? all : 0, 0)),
		MSR(0xffffffff00000005, GHCB_CPUID_RESP_SET(0, yes ? all : 0)),
		MSR(3, GHCB_CPUID_RESP_REG(yes ? all : 0)),
		MSR(0xffffffff, GHCB_CPUID_RESP_VAL(yes ? all : 0)),
		MSR(0xfffffffffffff007,
		    GHCB_MSR_AP_RESET_HOLD_RESP_SET(yes ? all : 0)),
		MSR(0xfffffffffffff, GHCB_MSR_AP_RESET_HOLD_RESP_VAL(yes ? all : 0)),
		MSR(0xfffffffffffff011, GHCB_MSR_PREF_GPA_RESP_SET(yes ? all : 0)),
		MSR(0xfffffffffffff, GHCB_MSR_PREF_GPA_RESP_VAL(yes ? all : 0)),
		MSR(0xfffffffffffff012, GHCB_MSR_REG_GPA_REQ_VAL(yes ? all : 0)),
		MSR(0xfffffffffffff, GHCB_MSR_REG_GPA_REQ_TO_GFN(yes ? all : 0)),
		MSR(0xfffffffffffff013, GHCB_MSR_REG_GPA_RESP_SET(yes ? all : 0)),
		MSR(0xfffffffffffff, GHCB_MSR_REG_GPA_RESP_VAL(yes ? all : 0)),
		MSR(0x000ffffffffff014, GHCB_MSR_PSC_REQ_GFN(yes ? all : 0, 0)),
		MSR(0x00f0000000000014, GHCB_MSR_PSC_REQ_GFN(0, yes ? all : 0)),
		MSR(0xffffffffff, GHCB_MSR_PSC_REQ_TO_GFN(yes ? all : 0)),
		MSR(0xf, GHCB_MSR_PSC_REQ_TO_OP(yes ? all : 0)),
		MSR(0xffffffff00000015, GHCB_MSR_PSC_RESP_SET(yes ? all : 0)),
		MSR(0xffffffff, GHCB_MSR_PSC_RESP_VAL(yes ? all : 0)),
		MSR(0x000000ff00000016, GHCB_MSR_VMPL_REQ_LEVEL(yes ? all : 0)),
		MSR(0xff, GHCB_MSR_VMPL_REQ_TO_LEVEL(yes ? all : 0)),
		MSR(0xffffffff00000017, GHCB_MSR_VMPL_RESP_SET(yes ? all : 0)),
		MSR(0xffffffff, GHCB_MSR_VMPL_RESP_VAL(yes ? all : 0)),
		MSR(0xfffffffffffff081, GHCB_MSR_HV_FT_RESP_SET(yes ? all : 0)),
		MSR(0xfffffffffffff, GHCB_MSR_HV_FT_RESP_VAL(yes ? all : 0)),
		MSR(0xf100, GHCB_SEV_TERMINATE_REQ(yes ? all : 0, 0)),
		MSR(0xff0100, GHCB_SEV_TERMINATE_REQ(0, yes ? all : 0)),
		MSR(0xf, GHCB_SEV_TERMINATE_TO_SET(yes ? all : 0)),
		MSR(0xff, GHCB_SEV_TERMINATE_TO_VAL(yes ? all : 0)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

/* Each argument is evaluated once: X counts how often it is. */
static unsigned int evaluated;

#define X	({ evaluated++; hidden(1); })
#define EVALUATES(_times, _call)					\
	{								\
		.what = #_call, .expected = (_times),			\
		.seen = ({ evaluated = 0; (void)(_call); evaluated; }),	\
	}

static void msr_arguments_once(struct kunit *test)
{
	const struct expectation e[] = {
		EVALUATES(1, GHCB_MSR_GPA_ADDR(X)),
		EVALUATES(1, GHCB_MSR_TO_GPA(X)),
		EVALUATES(3, GHCB_SEV_INFO_SET(X, X, X)),
		EVALUATES(1, GHCB_SEV_INFO_CBIT(X)),
		EVALUATES(2, GHCB_CPUID_REQ(X, X)),
		EVALUATES(1, GHCB_CPUID_REQ_TO_FN(X)),
		EVALUATES(1, GHCB_CPUID_REQ_TO_REG(X)),
		EVALUATES(2, GHCB_CPUID_RESP_SET(X, X)),
		EVALUATES(1, GHCB_CPUID_RESP_REG(X)),
		EVALUATES(1, GHCB_CPUID_RESP_VAL(X)),
		EVALUATES(1, GHCB_MSR_AP_RESET_HOLD_RESP_SET(X)),
		EVALUATES(1, GHCB_MSR_AP_RESET_HOLD_RESP_VAL(X)),
		EVALUATES(1, GHCB_MSR_PREF_GPA_RESP_SET(X)),
		EVALUATES(1, GHCB_MSR_PREF_GPA_RESP_VAL(X)),
		EVALUATES(1, GHCB_MSR_REG_GPA_REQ_VAL(X)),
		EVALUATES(1, GHCB_MSR_REG_GPA_REQ_TO_GFN(X)),
		EVALUATES(1, GHCB_MSR_REG_GPA_RESP_SET(X)),
		EVALUATES(1, GHCB_MSR_REG_GPA_RESP_VAL(X)),
		EVALUATES(2, GHCB_MSR_PSC_REQ_GFN(X, X)),
		EVALUATES(1, GHCB_MSR_PSC_REQ_TO_GFN(X)),
		EVALUATES(1, GHCB_MSR_PSC_REQ_TO_OP(X)),
		EVALUATES(1, GHCB_MSR_PSC_RESP_SET(X)),
		EVALUATES(1, GHCB_MSR_PSC_RESP_VAL(X)),
		EVALUATES(1, GHCB_MSR_VMPL_REQ_LEVEL(X)),
		EVALUATES(1, GHCB_MSR_VMPL_REQ_TO_LEVEL(X)),
		EVALUATES(1, GHCB_MSR_VMPL_RESP_SET(X)),
		EVALUATES(1, GHCB_MSR_VMPL_RESP_VAL(X)),
		EVALUATES(1, GHCB_MSR_HV_FT_RESP_SET(X)),
		EVALUATES(1, GHCB_MSR_HV_FT_RESP_VAL(X)),
		EVALUATES(2, GHCB_SEV_TERMINATE_REQ(X, X)),
		EVALUATES(1, GHCB_SEV_TERMINATE_TO_SET(X)),
		EVALUATES(1, GHCB_SEV_TERMINATE_TO_VAL(X)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

/*
 * A constant that does not fit into its field stops the build. What would stop it
 * is counted here instead: FIELD_PREP() takes this macro as it stands where it is
 * used.
 */
static unsigned int build_stops;

#undef BUILD_BUG_ON_MSG
#define BUILD_BUG_ON_MSG(_cond, _msg)	((void)(build_stops += !!(_cond)))

#define STOPS(_times, _call)						\
	{								\
		.what = #_call, .expected = (_times),			\
		.seen = ({ build_stops = 0; (void)(_call); build_stops; }), \
	}

static void msr_constants_that_do_not_fit(struct kunit *test)
{
	const struct expectation e[] = {
		STOPS(0, GHCB_SEV_INFO_SET(0xffff, 0xffff, 0xff)),
		STOPS(1, GHCB_SEV_INFO_SET(0x10000, 0, 0)),
		STOPS(1, GHCB_SEV_INFO_SET(0, 0x10000, 0)),
		STOPS(1, GHCB_SEV_INFO_SET(0, 0, 0x100)),
		STOPS(1, GHCB_SEV_INFO_SET(0, 0, -1)),
		STOPS(0, GHCB_CPUID_RESP_SET(3, 0xffffffff)),
		STOPS(1, GHCB_CPUID_RESP_SET(4, 0)),
		STOPS(1, GHCB_CPUID_RESP_SET(0, 1ULL << 32)),
		STOPS(0, GHCB_MSR_AP_RESET_HOLD_RESP_SET((1ULL << 52) - 1)),
		STOPS(1, GHCB_MSR_AP_RESET_HOLD_RESP_SET(1ULL << 52)),
		STOPS(0, GHCB_MSR_PREF_GPA_RESP_SET(GHCB_MSR_PREF_GPA_NONE)),
		STOPS(1, GHCB_MSR_PREF_GPA_RESP_SET(1ULL << 52)),
		STOPS(0, GHCB_MSR_REG_GPA_REQ_VAL((1ULL << 52) - 1)),
		STOPS(1, GHCB_MSR_REG_GPA_REQ_VAL(1ULL << 52)),
		STOPS(0, GHCB_MSR_REG_GPA_RESP_SET((1ULL << 52) - 1)),
		STOPS(1, GHCB_MSR_REG_GPA_RESP_SET(1ULL << 52)),
		STOPS(0, GHCB_MSR_PSC_REQ_GFN((1ULL << 40) - 1, 15)),
		STOPS(1, GHCB_MSR_PSC_REQ_GFN(1ULL << 40, 0)),
		STOPS(1, GHCB_MSR_PSC_REQ_GFN(0, 16)),
		STOPS(0, GHCB_MSR_PSC_RESP_SET(0xffffffff)),
		STOPS(1, GHCB_MSR_PSC_RESP_SET(1ULL << 32)),
		STOPS(0, GHCB_MSR_VMPL_REQ_LEVEL(0xff)),
		STOPS(1, GHCB_MSR_VMPL_REQ_LEVEL(0x100)),
		STOPS(0, GHCB_MSR_VMPL_RESP_SET(0xffffffff)),
		STOPS(1, GHCB_MSR_VMPL_RESP_SET(1ULL << 32)),
		STOPS(0, GHCB_MSR_HV_FT_RESP_SET((1ULL << 52) - 1)),
		STOPS(1, GHCB_MSR_HV_FT_RESP_SET(1ULL << 52)),
	};

	check_all(test, e, ARRAY_SIZE(e));
}

static struct kunit_case ghcb_cases[] = {
	KUNIT_CASE(layout_page),
	KUNIT_CASE(layout_save_area),
	KUNIT_CASE(layout_vmcb),
	KUNIT_CASE(layout_bitmap),
	KUNIT_CASE(accessors_set),
	KUNIT_CASE(accessors_get),
	KUNIT_CASE(accessors_get_if_valid),
	KUNIT_CASE(accessors_is_valid),
	KUNIT_CASE(accessors_set_all),
	KUNIT_CASE(accessors_fit_for_noinstr),
	KUNIT_CASE(accessors_read_again),
	KUNIT_CASE(msr_function_numbers),
	KUNIT_CASE(msr_ghcb_address),
	KUNIT_CASE(msr_sev_info_response),
	KUNIT_CASE(msr_sev_info_fields),
	KUNIT_CASE(msr_cpuid_request),
	KUNIT_CASE(msr_cpuid_request_arguments),
	KUNIT_CASE(msr_cpuid_request_fields),
	KUNIT_CASE(msr_cpuid_response),
	KUNIT_CASE(msr_cpuid_response_fields),
	KUNIT_CASE(msr_ap_reset_hold_response),
	KUNIT_CASE(msr_preferred_gpa_response),
	KUNIT_CASE(msr_register_gpa_request),
	KUNIT_CASE(msr_register_gpa_response),
	KUNIT_CASE(msr_page_state_change_request),
	KUNIT_CASE(msr_page_state_change_fields),
	KUNIT_CASE(msr_page_state_change_response),
	KUNIT_CASE(msr_vmpl_request),
	KUNIT_CASE(msr_vmpl_response),
	KUNIT_CASE(msr_features_response),
	KUNIT_CASE(msr_terminate_reason),
	KUNIT_CASE(msr_terminate_request),
	KUNIT_CASE(msr_narrow_arguments),
	KUNIT_CASE(msr_expression_arguments),
	KUNIT_CASE(msr_arguments_once),
	KUNIT_CASE(msr_constants_that_do_not_fit),
	{}
};

static struct kunit_suite ghcb_suite = {
	.name = "ghcb",
	.test_cases = ghcb_cases,
};

kunit_test_suite(ghcb_suite);

MODULE_DESCRIPTION("KUnit tests of the GHCB layout, accessors and MSR protocol");
MODULE_LICENSE("GPL v2");
