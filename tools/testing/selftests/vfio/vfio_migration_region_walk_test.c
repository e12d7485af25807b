// SPDX-License-Identifier: GPL-2.0-only
/*
 * A random walk through the migration region, with a model that says before
 * each step what it will give
 *
 * Two devices are saved and loaded, all by the same dice.  What one gave is
 * kept on tapes, complete or not, and either of them is fed with the tapes,
 * cut anew, broken off, with a bit flipped now and then.  The model knows the
 * stream's form, and so which pages have been sent and with what in them.
 *
 * Usage: vfio_migration_region_walk_test [-n STEPS] [-s SEED] [-v]
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "../kselftest.h"
#include "vfio_migration_region_lib.h"
#include "mscratch.h"

#define STEPS		1000000UL
#define SEED		20200319UL

#define PAGES		16U			/* of scratch memory */
#define SCRATCH		(PAGES * PAGE)
#define CONTENTS	32U			/* what a page can hold; 0 is zeroes */
#define UNKNOWN		CONTENTS
#define TAPES		6U
#define TAPE_SIZE	0x100000UL
#define IOVA		0x10000000ULL

/* The form of the stream: a header, records, data behind them */
#define STREAM_HEADER	56
#define STREAM_RECORD	32
#define MAGIC_DATA	0x41544144U
#define MAGIC_END	0x20444e45U

struct record {
	__u32 magic;
	__u32 sequence;
	__u64 pos;
	__u64 len;
	__u64 sum;
};

/* What migrates */
struct content {
	unsigned int page[PAGES];
	__u64 regs[3];
};

struct tape {
	char *data;
	size_t size;
	bool complete;
	struct content content;		/* once it is complete */
};

struct model {
	struct dev *d;
	const char *name;
	size_t window_size;
	__u64 window;			/* its offset in the region */
	int state;
	struct content now;

	/* While it is saved */
	struct tape *tape;
	struct chunk chunk;		/* size 0: none is committed */
	size_t frame;			/* bytes of the frame still to come */
	struct record record;
	size_t frame_size;
	__u64 run_pos;
	__u64 run_len;
	__u32 sequence;
	__u32 unsent;			/* a bit a page */
	bool regs_unsent;
	bool ended;

	/* While it is loaded */
	const struct tape *from;
	size_t at;
	bool received;			/* anything at all */
	bool flipped;			/* a bit, or it went on with zeroes */
	bool too_far;			/* data behind the end */
	bool refused;
};

static struct model models[2];
static char contents[CONTENTS][PAGE];
static struct tape tapes[TAPES];
static char *guest;
static char buf[1 << 17];
static __u64 dice;
static unsigned long step, failures;
static unsigned long transitions[STATES][STATES];
static unsigned long saved, loaded, refusals, resets, opens, dmas, chunks;
static bool verbose;

static unsigned int roll(unsigned int sides)
{
	return random_next(&dice) % sides;
}

static void fail(const struct model *m, const char *fmt, ...)
{
	va_list args;

	/* The first few tell enough */
	if (failures++ >= 10)
		return;
	printf("# step %lu, device %s in state %d: ", step, m->name, m->state);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
}

static void predict(const struct model *m, long long expected, long long seen,
		    const char *what)
{
	if (expected != seen)
		fail(m, "%s: expected %lld, seen %lld\n", what, expected, seen);
}

static bool saving(const struct model *m)
{
	return m->state == STOP_COPY || m->state == PRE_COPY;
}

/* Can the device be changed without spoiling what is being saved? */
static bool changeable(const struct model *m)
{
	return (m->state == RUNNING || m->state == STOP ||
		m->state == PRE_COPY) && m->frame % m->frame_size == 0;
}

/* A tape that the other device has nothing to do with */
static struct tape *tape_choose(const struct model *m, bool complete)
{
	const struct model *other = &models[m == &models[0]];
	struct tape *tape;
	unsigned int i;

	/* To be recorded on or to be played, one is better than the other */
	for (i = 0; ; i++) {
		tape = &tapes[roll(TAPES)];
		if (tape != other->tape && tape != other->from &&
		    (tape->complete == complete || i > 3))
			return tape;
	}
}

/*
 * The stream as it comes out
 */

static void save_begin(struct model *m)
{
	m->tape = tape_choose(m, false);
	m->tape->size = 0;
	m->tape->complete = false;
	m->chunk.size = 0;
	m->frame = STREAM_HEADER;
	m->frame_size = STREAM_HEADER;
	m->run_len = 0;
	m->sequence = 0;
	m->unsent = (1U << PAGES) - 1;
	m->regs_unsent = true;
	m->ended = false;
}

static void parse_record(struct model *m, bool stopped)
{
	const struct record *r = &m->record;
	__u32 pages;

	predict(m, m->sequence, r->sequence, "number of the record");
	m->sequence++;
	if (r->magic == MAGIC_END) {
		predict(m, true, stopped, "end of the stream");
		predict(m, 0, m->unsent, "pages not sent at the end");
		predict(m, false, m->regs_unsent, "registers not sent");
		m->ended = true;
		return;
	}
	predict(m, MAGIC_DATA, r->magic, "kind of record");
	m->run_pos = r->pos;
	m->run_len = r->len;
	if (r->pos == SCRATCH) {
		predict(m, true, stopped, "registers while it runs");
		m->regs_unsent = false;
		return;
	}
	if (r->pos % PAGE || r->len % PAGE || !r->len || r->len > SCRATCH ||
	    r->pos > SCRATCH - r->len) {
		fail(m, "a run of %#llx bytes at %#llx\n", r->len, r->pos);
		return;
	}
	/* Nothing is sent that was sent already */
	pages = ((1ULL << r->len / PAGE) - 1) << r->pos / PAGE;
	predict(m, pages, m->unsent & pages, "pages sent again");
	m->unsent &= ~pages;
}

static void parse_data(struct model *m, const char *data, size_t len)
{
	size_t n, in_page;

	while (len) {
		in_page = m->run_pos % PAGE;
		n = PAGE - in_page < len ? PAGE - in_page : len;
		if (m->run_pos < SCRATCH) {
			if (memcmp(contents[m->now.page[m->run_pos / PAGE]] +
				   in_page, data, n))
				fail(m, "page %llu is not what was written\n",
				     m->run_pos / PAGE);
		} else if (m->run_pos == SCRATCH && n >= sizeof(m->now.regs)) {
			if (memcmp(m->now.regs, data, sizeof(m->now.regs)))
				fail(m, "registers are not what was written\n");
		}
		m->run_pos += n;
		m->run_len -= n;
		data += n;
		len -= n;
	}
}

static void parse(struct model *m, const char *data, size_t len)
{
	bool stopped = m->state == STOP_COPY;
	size_t n;

	while (len) {
		if (m->run_len) {
			n = m->run_len < len ? m->run_len : len;
			parse_data(m, data, n);
		} else {
			if (m->ended) {
				fail(m, "%zu bytes behind the end\n", len);
				return;
			}
			if (!m->frame) {
				m->frame = STREAM_RECORD;
				m->frame_size = STREAM_RECORD;
			}
			n = m->frame < len ? m->frame : len;
			if (m->frame_size == STREAM_RECORD)
				memcpy((char *)&m->record + STREAM_RECORD -
				       m->frame, data, n);
			m->frame -= n;
			if (!m->frame && m->frame_size == STREAM_RECORD)
				parse_record(m, stopped);
		}
		data += n;
		len -= n;
	}
}

/* Is there more to come, as things are? */
static bool more(const struct model *m)
{
	if (m->frame || m->run_len)
		return true;
	if (m->state == STOP_COPY)
		return !m->ended;

	return m->unsent;
}

/*
 * The steps
 */

static void forget_all(struct model *m)
{
	m->state = RUNNING;
	memset(&m->now, 0, sizeof(m->now));
	m->tape = NULL;
	m->from = NULL;
	m->chunk.size = 0;
	m->frame = 0;
	m->frame_size = STREAM_RECORD;
}

static void check_content(struct model *m)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		if (m->now.page[i] != UNKNOWN &&
		    memcmp(contents[m->now.page[i]],
			   m->d->map + m->d->mig.area[0].offset + i * PAGE,
			   PAGE))
			fail(m, "page %u is not what it should be\n", i);
	}
	if (m->now.page[0] == UNKNOWN)
		return;
	predict(m, m->now.regs[0], reg_get64(m->d, MSCRATCH_REG_DMA_IOVA),
		"DMA_IOVA");
	predict(m, m->now.regs[1], reg_get64(m->d, MSCRATCH_REG_DMA_OFFSET),
		"DMA_OFFSET");
	predict(m, m->now.regs[2], reg_get64(m->d, MSCRATCH_REG_DMA_LENGTH),
		"DMA_LENGTH");
}

/* What the write of a state gives, and what becomes of everything else */
static int predict_state(struct model *m, __u32 to)
{
	int from = m->state;

	if (to > RESUMING || from == ERROR)
		return -EINVAL;
	transitions[from][to]++;
	if ((int)to == from)
		return 0;

	if (from == RESUMING && m->received) {
		if (m->refused || m->flipped || m->too_far || !m->from->complete ||
		    m->at != m->from->size) {
			refusals++;
			m->state = ERROR;
			return -EINVAL;
		}
		loaded++;
		m->now = m->from->content;
	}
	m->state = to;
	if (to == STOP_COPY && from == PRE_COPY)
		return 0;

	m->tape = NULL;
	m->chunk.size = 0;
	m->frame = 0;
	m->frame_size = STREAM_RECORD;
	if (saving(m))
		save_begin(m);
	m->from = NULL;
	if (to == RESUMING) {
		m->at = 0;
		m->received = false;
		m->flipped = false;
		m->too_far = false;
		m->refused = false;
	}

	return 0;
}

static void step_state(struct model *m)
{
	__u32 to = roll(5);
	int was = m->state;
	int expected;

	/* What leads somewhere is more likely than what does not */
	switch (roll(32)) {
	case 0:
		to = roll(8);
		break;
	case 1:
		to |= 1U << roll(32);
		break;
	case 2:
		to = random_next(&dice);
		break;
	case 3 ... 12:
		to = m->state == PRE_COPY ? STOP_COPY : PRE_COPY;
		break;
	case 13 ... 20:
		to = RESUMING;
		break;
	}
	expected = predict_state(m, to);
	predict(m, expected, state_set(m->d, to), "state write");
	predict(m, m->state, state_get(m->d), "state afterwards");
	if (was == RESUMING && m->state != RESUMING && m->state != ERROR)
		check_content(m);
}

static void step_pending(struct model *m)
{
	__u64 value = 0;

	predict(m, 0, pending_get(m->d, &value), "read of pending_bytes");
	m->chunk.size = 0;
	if (!saving(m)) {
		predict(m, 0, value, "pending_bytes");
		return;
	}
	predict(m, more(m), value > 0, "pending_bytes");
	if (value > SCRATCH + 48 + STREAM_HEADER + 20 * STREAM_RECORD)
		fail(m, "%llu bytes pending\n", value);
}

static void step_commit(struct model *m)
{
	struct chunk c = {};
	char *data;

	predict(m, 0, offset_get(m->d, &c.offset), "read of data_offset");
	predict(m, 0, size_get(m->d, &c.size), "read of data_size");
	if (m->chunk.size) {
		predict(m, m->chunk.offset, c.offset, "offset of the chunk");
		predict(m, m->chunk.size, c.size, "size of the chunk");
		return;
	}
	if (!saving(m) || !more(m)) {
		predict(m, m->window, c.offset, "data_offset");
		predict(m, 0, c.size, "data_size");
		return;
	}

	if (!c.size || c.size > m->window_size) {
		fail(m, "a chunk of %llu bytes\n", c.size);
		return;
	}
	if (c.offset != m->window) {
		/* In the memory itself, of a device that has stopped */
		predict(m, STOP_COPY, m->state, "state with direct access");
		predict(m, PAGE + m->run_pos, c.offset, "place in the memory");
		if (c.size > m->run_len) {
			fail(m, "%llu bytes of a run of %llu\n", c.size,
			     m->run_len);
			return;
		}
	}
	if (m->tape->size + c.size > TAPE_SIZE) {
		/* Pages that changed again and again: nobody wants to wait */
		predict(m, predict_state(m, RUNNING),
			state_set(m->d, RUNNING), "state write");
		return;
	}
	chunks++;
	m->chunk = c;
	data = m->tape->data + m->tape->size;
	memcpy(data, m->d->map + c.offset, c.size);
	m->tape->size += c.size;
	parse(m, data, c.size);
	if (m->ended && !m->tape->complete) {
		saved++;
		m->tape->complete = true;
		m->tape->content = m->now;
	}
}

static void step_read_data(struct model *m)
{
	__u64 at, len;
	int ret;

	if (!saving(m) || !m->chunk.size || !roll(16)) {
		/* Not in the chunk, or not wholly */
		at = m->window + roll(m->window_size);
		len = 1 + roll(256);
		if (saving(m) && m->chunk.size && at >= m->chunk.offset &&
		    at + len <= m->chunk.offset + m->chunk.size)
			len = m->window_size + 1;
		ret = region_read(m->d, at, buf, len);
		predict(m, -EINVAL, ret, "read of what is no data");
		return;
	}
	at = roll(m->chunk.size);
	len = 1 + roll(m->chunk.size - at < 512 ? m->chunk.size - at : 512);
	ret = region_read(m->d, m->chunk.offset + at, buf, len);
	predict(m, 0, ret, "read of data");
	if (!ret && memcmp(buf, m->tape->data + m->tape->size -
			   m->chunk.size + at, len))
		fail(m, "%llu bytes at %llu of the chunk differ\n", len, at);
}

static void step_load(struct model *m)
{
	size_t len, left;
	bool flip;
	int ret;

	if (m->state != RESUMING) {
		predict(m, -EINVAL, region_write(m->d, m->window, buf, 8),
			"write of data");
		predict(m, -EINVAL, size_set(m->d, roll(64)),
			"write of data_size");
		return;
	}
	if (!roll(64)) {
		predict(m, -EINVAL, size_set(m->d, m->window_size + 1 + roll(99)),
			"data_size beyond the window");
		predict(m, -EINVAL, region_write(m->d, m->window +
						 m->window_size - 8, buf, 9),
			"data beyond the window");
		return;
	}
	if (!m->from) {
		m->from = tape_choose(m, true);
	} else if (m->from->complete && m->at == m->from->size && roll(4)) {
		step_state(m);
		return;
	}
	left = m->from->size > m->at ? m->from->size - m->at : 0;
	len = roll(8) ? m->window_size : 1 + roll(m->window_size);
	if (len > left && roll(64))
		len = left;
	flip = len && !roll(400);
	memset(buf, 0, len);
	memcpy(buf, m->from->data + m->at, len < left ? len : left);
	if (flip)
		buf[roll(len)] ^= 1 << roll(8);
	if (len)
		ret = data_write(m->d, m->window, buf, len,
				 roll(4) ? BY_MMAP : 1 + roll(2 * PAGE));
	else
		ret = 0;
	predict(m, 0, ret, "write of data");
	ret = size_set(m->d, len);
	if (len)
		m->received = true;
	/* Zeroes may still be data, but the end will not be right */
	m->flipped |= flip || (len > left && !m->from->complete);
	m->too_far |= len > left;
	m->at += len;
	/* What is in the memory now cannot be told before the end */
	for (left = 0; len && left < PAGES; left++)
		m->now.page[left] = UNKNOWN;
	if (m->refused) {
		predict(m, -EINVAL, ret, "data behind what was refused");
	} else if (m->flipped) {
		/* Where it is seen depends on the bit */
		predict(m, ret ? -EINVAL : 0, ret, "a wrong chunk");
		m->refused = ret;
	} else if (m->too_far) {
		predict(m, -EINVAL, ret, "data behind the end");
		m->refused = true;
	} else {
		predict(m, 0, ret, "a right chunk");
	}
}

static void step_change(struct model *m)
{
	unsigned int page = roll(PAGES), to = roll(CONTENTS), i;
	__u64 regs[3];
	__u32 path;

	if (!changeable(m) || (m->state == PRE_COPY && roll(8)))
		return;
	/* While a run is under way its pages are anybody's guess */
	if (m->state == PRE_COPY && m->run_len)
		return;
	if (roll(8)) {
		predict(m, 0, scratch_write(m->d, page * PAGE, contents[to],
					    PAGE), "write of scratch memory");
	} else {
		path = roll(2) ? MSCRATCH_DMA_RW : 0;
		memcpy(guest, contents[to], PAGE);
		i = dma_start(m->d, IOVA, page * PAGE, PAGE, path);
		predict(m, 0, i, "start of DMA");
		dma_wait(m->d);
		regs[0] = IOVA;
		regs[1] = page * PAGE;
		regs[2] = PAGE;
		memcpy(m->now.regs, regs, sizeof(regs));
		dmas++;
		/* It is heard only while the device runs */
		if (m->state == STOP)
			return;
	}
	m->now.page[page] = to;
	m->unsent |= 1U << page;
}

static void step_registers(struct model *m)
{
	static const unsigned int reg[] = {
		MSCRATCH_REG_DMA_IOVA, MSCRATCH_REG_DMA_OFFSET,
		MSCRATCH_REG_DMA_LENGTH,
	};
	unsigned int i = roll(3);

	if (!changeable(m))
		return;
	m->now.regs[i] = random_next(&dice);
	predict(m, 0, reg_set64(m->d, reg[i], m->now.regs[i]),
		"write of a register");
	if (m->now.page[0] != UNKNOWN)
		predict(m, m->now.regs[i], reg_get64(m->d, reg[i]),
			"register");
}

static void step_look(struct model *m)
{
	unsigned int page = roll(PAGES);

	predict(m, m->state, state_get(m->d), "state");
	if (m->now.page[page] == UNKNOWN)
		return;
	if (roll(2)) {
		predict(m, 0, scratch_read(m->d, page * PAGE, buf, 64),
			"read of scratch memory");
		predict(m, 0, memcmp(buf, contents[m->now.page[page]], 64),
			"scratch memory");
	} else {
		predict(m, 0, memcmp(m->d->map + m->d->mig.area[0].offset +
				     page * PAGE, contents[m->now.page[page]],
				     PAGE), "mapped memory");
	}
}

/* Fields at a width or place that is not theirs */
static void step_bad_access(struct model *m)
{
	unsigned int at = roll(48), width = 1 + roll(16);
	bool write = roll(2);
	int expected = -EINVAL;
	int ret;

	if (width == 4 && (at == OFF_STATE || at == OFF_RESERVED))
		return;
	if (width == 8 && (at == OFF_PENDING || at == OFF_OFFSET ||
			   at == OFF_SIZE)) {
		if (!write || at == OFF_SIZE)
			return;
		expected = -EFAULT;
	}
	memset(buf, roll(2), width);
	ret = write ? region_write(m->d, at, buf, width) :
		      region_read(m->d, at, buf, width);
	predict(m, expected, ret, "bad access");
}

static void step_reset(struct model *m)
{
	predict(m, 0, dev_reset(m->d), "reset");
	forget_all(m);
	predict(m, RUNNING, state_get(m->d), "state after a reset");
	check_content(m);
	resets++;
}

static int map_guest(struct model *m)
{
	return container_map(m->d->u.container, guest, IOVA, PAGE);
}

static void step_reopen(struct model *m)
{
	int ret;

	dev_close(m->d);
	ret = dev_open(m->d);
	ret = ret ?: dev_map(m->d);
	ret = ret ?: map_guest(m);
	if (ret)
		ksft_exit_fail_msg("device cannot be opened again: %s\n",
				   strerror(-ret));
	forget_all(m);
	if (*not_pristine(m->d))
		fail(m, "opened again: %s\n", not_pristine(m->d));
	opens++;
}

static void walk_one(struct model *m)
{
	unsigned int n = roll(1000);

	if (m->state == ERROR && n < 300)
		step_reset(m);
	else if (n < (saving(m) || m->state == RESUMING ? 8 : 40))
		step_state(m);
	else if (n >= 40 && n < 42)
		step_reset(m);
	else if (n < 90)
		step_look(m);
	else if (n < 130)
		step_bad_access(m);
	else if (n < 180)
		step_change(m);
	else if (n < 200)
		step_registers(m);
	else if (n < 260)
		step_read_data(m);
	else if (m->state == RESUMING && n < 900)
		step_load(m);
	else if (n < 600)
		step_pending(m);
	else if (n < 950)
		step_commit(m);
	else if (n < 960)
		step_load(m);
	else if (n == 999 && !roll(20))
		step_reopen(m);
	else
		step_look(m);
}

static int model_open(struct model *m, struct dev *d, const char *name,
		      unsigned int nr, size_t window_size)
{
	int ret;

	memset(m, 0, sizeof(*m));
	m->d = d;
	m->name = name;
	m->window_size = window_size;
	ret = param_set("window", window_size);
	ret = ret ?: dev_create(d, "mscratch-64k", nr);
	ret = ret ?: dev_open(d);
	ret = ret ?: dev_map(d);
	ret = ret ?: map_guest(m);
	if (ret)
		return ret;
	m->window = window_offset(d);
	forget_all(m);

	return 0;
}

int main(int argc, char **argv)
{
	unsigned long steps = STEPS, seed = SEED;
	struct dev devs[2];
	unsigned int i, j;
	bool all = true;
	int opt, ret;

	while ((opt = getopt(argc, argv, "n:s:v")) != -1) {
		if (opt == 'n')
			steps = strtoul(optarg, NULL, 0);
		else if (opt == 's')
			seed = strtoul(optarg, NULL, 0);
		else if (opt == 'v')
			verbose = true;
		else
			return KSFT_FAIL;
	}
	ksft_print_header();
	ksft_set_plan(3);
	dice = (seed + 1) * 0x9e3779b97f4a7c15ULL;
	for (i = 1; i < CONTENTS; i++)
		pattern(contents[i], PAGE, i);
	for (i = 0; i < TAPES; i++) {
		tapes[i].data = malloc(TAPE_SIZE);
		if (!tapes[i].data)
			ksft_exit_fail_msg("no memory\n");
	}
	guest = page_alloc(PAGE);
	ret = devs_remove_all();
	ret = ret ?: params_default();
	ret = ret ?: model_open(&models[0], &devs[0], "a", 0, PAGE);
	ret = ret ?: model_open(&models[1], &devs[1], "b", 1, 5 * PAGE);
	if (ret || !guest)
		ksft_exit_fail_msg("no devices: %s\n", strerror(-ret));

	for (step = 0; step < steps && failures < 10; step++) {
		if (verbose)
			printf("# step %lu: states %d %d\n", step,
			       models[0].state, models[1].state);
		walk_one(&models[roll(2)]);
	}
	printf("# seed %lu: %lu steps, %lu chunks, %lu streams saved, %lu loaded, %lu refused\n",
	       seed, step, chunks, saved, loaded, refusals);
	printf("# %lu resets, %lu DMAs, opened %lu times\n", resets, dmas,
	       opens + 2);
	ksft_test_result(!failures, "each step gives what the model predicts\n");

	/* A walk that does not get anywhere proves nothing */
	for (i = STOP; i <= RESUMING; i++) {
		for (j = STOP; j <= RESUMING; j++) {
			if (transitions[i][j])
				continue;
			printf("# no step from state %u to %u\n", i, j);
			all = false;
		}
	}
	ksft_test_result(all && saved && loaded && refusals && resets && dmas,
			 "every transition and every ending was met\n");

	for (i = 0; i < ARRAY_SIZE(models); i++) {
		ret = ret ?: dev_reset(&devs[i]);
		ret = ret ?: migrates(&devs[i], &devs[!i], i);
	}
	ksft_test_result(!ret, "both devices are usable afterwards\n");
	for (i = 0; i < ARRAY_SIZE(models); i++) {
		dev_close(&devs[i]);
		dev_remove(&devs[i]);
	}
	ksft_exit(!ksft_get_fail_cnt());
}
