// SPDX-License-Identifier: GPL-2.0-only
/*
 * The stream of the migration region: however it is cut into pieces it is the
 * same, and whatever is not a stream of this device is refused
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "vfio_migration_region_lib.h"
#include "mscratch.h"

/* The limit is for a hang; emulated machines take their time */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define TYPE		"mscratch-64k"
#define SCRATCH		(64UL << 10)
#define WINDOW		4096UL
#define MIB		0x100000UL

FIXTURE(segments)
{
	struct pair p;
};

FIXTURE_SETUP(segments)
{
	ASSERT_EQ(0, pair_open(&self->p, TYPE, WINDOW));
}

FIXTURE_TEARDOWN(segments)
{
	EXPECT_EQ(0, pair_close(&self->p));
}

/*
 * Segmentation
 */

static const int pieces[] = {
	BY_MMAP, BY_QEMU, 1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 31, 32, 63, 64, 127,
	251, 256, 509, 1000, 1021, 2047, 2048, 4093, 4095, 4096,
};

/* Every chunk, read in pieces of every size, gives what the mapping shows */
TEST_F(segments, chunk_read_in_pieces)
{
	struct dev *d = &self->p.a;
	char mapped[WINDOW], trapped[WINDOW];
	unsigned int i, n = 0;
	struct chunk c;

	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	while (chunk_next(d, &c) == 1) {
		ASSERT_EQ(0, data_read(d, c.offset, mapped, c.size, BY_MMAP));
		for (i = 1; i < ARRAY_SIZE(pieces); i++) {
			ASSERT_EQ(0, data_read(d, c.offset, trapped, c.size,
					       pieces[i]));
			ASSERT_EQ(0, memcmp(mapped, trapped, c.size)) {
				TH_LOG("chunk %u, pieces of %d", n, pieces[i]);
			}
		}
		/* All sizes on the first chunks and on each small one */
		for (i = 1; (n < 2 || c.size < 256) && i <= 512; i++) {
			ASSERT_EQ(0, data_read(d, c.offset, trapped, c.size, i));
			ASSERT_EQ(0, memcmp(mapped, trapped, c.size));
		}
		n++;
	}
	EXPECT_LE(SCRATCH / WINDOW, n);
}

/* Out of order, overlapping, and any start */
TEST_F(segments, chunk_read_at_random)
{
	struct dev *d = &self->p.a;
	__u64 seed = 20, at, len;
	char mapped[WINDOW], trapped[WINDOW];
	struct chunk c;
	unsigned int i;

	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	while (chunk_next(d, &c) == 1) {
		memcpy(mapped, d->map + c.offset, c.size);
		for (i = 0; i < 200; i++) {
			at = random_next(&seed) % c.size;
			len = 1 + random_next(&seed) % (c.size - at);
			ASSERT_EQ(0, data_read(d, c.offset + at, trapped, len,
					       WINDOW));
			ASSERT_EQ(0, memcmp(mapped + at, trapped, len));
		}
		/* Around its edges there is nothing to be read */
		EXPECT_EQ(-EINVAL, peek(d, c.offset + c.size, trapped, 1));
		EXPECT_EQ(-EINVAL, peek(d, c.offset + c.size - 1, trapped, 2));
		EXPECT_EQ(-EINVAL, peek(d, c.offset - 1, trapped, 1));
		EXPECT_EQ(-EINVAL, peek(d, c.offset, trapped, c.size + 1));
	}
}

TEST_F(segments, saved_in_pieces)
{
	struct stream s[2] = {};
	unsigned int i;

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	for (i = 0; i < ARRAY_SIZE(pieces); i++) {
		struct stream *this = &s[!!i];

		ASSERT_EQ(0, save(&self->p.a, this, pieces[i]));
		ASSERT_EQ(s[0].size, this->size);
		ASSERT_EQ(s[0].chunks, this->chunks);
		ASSERT_EQ(0, memcmp(s[0].data, this->data, s[0].size)) {
			TH_LOG("pieces of %d", pieces[i]);
		}
		stream_free(&s[1]);
	}
}

/* The chunks as they were, written in pieces of every kind */
TEST_F(segments, resumed_in_pieces)
{
	struct stream s = {};
	unsigned int i;

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, save(&self->p.a, &s, BY_MMAP));
	for (i = 0; i < ARRAY_SIZE(pieces); i++) {
		ASSERT_EQ(0, dev_reset(&self->p.b));
		ASSERT_EQ(0, resume(&self->p.b, &s, pieces[i], 0)) {
			TH_LOG("pieces of %d", pieces[i]);
		}
		ASSERT_EQ(0, scratch_check(&self->p.b, 1));
	}
}

/* The chunks cut anew: any data_size may be written */
TEST_F(segments, resumed_in_other_chunks)
{
	struct stream s = {};
	unsigned int i;

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, save(&self->p.a, &s, BY_MMAP));
	for (i = 2; i < ARRAY_SIZE(pieces); i++) {
		ASSERT_EQ(0, dev_reset(&self->p.b));
		ASSERT_EQ(0, resume(&self->p.b, &s, i % 2 ? BY_MMAP : BY_QEMU,
				    pieces[i])) {
			TH_LOG("chunks of %d", pieces[i]);
		}
		ASSERT_EQ(0, scratch_check(&self->p.b, 1));
	}
}

TEST_F(segments, resumed_in_random_chunks)
{
	struct dev *b = &self->p.b;
	__u64 seed = 30, size = 0;
	struct stream s = {};
	unsigned int round;
	size_t at;

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, save(&self->p.a, &s, BY_MMAP));
	for (round = 0; round < 20; round++) {
		ASSERT_EQ(0, dev_reset(b));
		ASSERT_EQ(0, state_set(b, RESUMING));
		for (at = 0; at < s.size; at += size) {
			/* Small ones as often as big ones */
			size = random_next(&seed) %
			       (1 + WINDOW / (1 << random_next(&seed) % 12));
			if (size > s.size - at)
				size = s.size - at;
			ASSERT_EQ(0, stream_put(b, s.data + at, size,
						random_next(&seed) % 2 ?
						BY_MMAP : WINDOW));
		}
		ASSERT_EQ(0, state_set(b, RUNNING));
		ASSERT_EQ(0, scratch_check(b, 1));
	}
}

/* Data in the window that comes in any order before data_size is written */
TEST_F(segments, window_written_out_of_order)
{
	struct dev *b = &self->p.b;
	struct stream s = {};
	__u64 at;
	unsigned int i;
	size_t start = 0, len, n;

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, save(&self->p.a, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(b, RESUMING));
	for (i = 0; i < s.chunks; i++, start += len) {
		len = s.end[i] - start;
		at = window_offset(b);
		ASSERT_NE(0, at);
		for (n = len; n > 0; n--) {
			if (n % 512 && n > 64 && n != len)
				continue;
			/* Overlapping writes, from the end to the beginning */
			ASSERT_EQ(0, data_write(b, at + n - 1,
						s.data + start + n - 1,
						len - n + 1, WINDOW));
		}
		ASSERT_EQ(0, data_write(b, at, s.data + start, len, 1021));
		ASSERT_EQ(0, size_set(b, len));
	}
	ASSERT_EQ(0, state_set(b, RUNNING));
	EXPECT_EQ(0, scratch_check(b, 1));
}

/*
 * Windows of other sizes
 */

FIXTURE(window)
{
	struct pair p;
};

FIXTURE_VARIANT(window)
{
	unsigned long size;
	bool mmap;
	unsigned long other;
};

FIXTURE_VARIANT_ADD(window, byte) { .size = 1, .mmap = true, .other = 4096 };
FIXTURE_VARIANT_ADD(window, odd) { .size = 1021, .mmap = true, .other = 1 };
FIXTURE_VARIANT_ADD(window, page) { .size = 4096, .mmap = true, .other = 12288 };
FIXTURE_VARIANT_ADD(window, page_and_byte) { .size = 4097, .mmap = true, .other = 4096 };
FIXTURE_VARIANT_ADD(window, trapped) { .size = 8192, .other = 4096 };
FIXTURE_VARIANT_ADD(window, as_the_state) { .size = 65536, .mmap = true, .other = 4096 };
FIXTURE_VARIANT_ADD(window, big) { .size = 1 << 20, .mmap = true, .other = 3000 };
FIXTURE_VARIANT_ADD(window, biggest) { .size = 64 << 20, .mmap = true, .other = 8192 };

FIXTURE_SETUP(window)
{
	ASSERT_EQ(0, devs_remove_all());
	ASSERT_EQ(0, params_default());
	ASSERT_EQ(0, param_set("window", variant->size));
	ASSERT_EQ(0, param_set("mmap", variant->mmap));
	ASSERT_EQ(0, dev_create(&self->p.a, TYPE, 0));
	ASSERT_EQ(0, params_default());
	ASSERT_EQ(0, param_set("window", variant->other));
	ASSERT_EQ(0, dev_create(&self->p.b, TYPE, 1));
	ASSERT_EQ(0, dev_open(&self->p.a));
	ASSERT_EQ(0, dev_open(&self->p.b));
	ASSERT_EQ(0, dev_map(&self->p.a));
	ASSERT_EQ(0, dev_map(&self->p.b));
}

FIXTURE_TEARDOWN(window)
{
	EXPECT_EQ(0, pair_close(&self->p));
}

TEST_F(window, region)
{
	bool mapped = variant->mmap && variant->size % PAGE == 0;
	struct dev *d = &self->p.a;

	EXPECT_EQ(true, d->mig.sparse);
	EXPECT_EQ(mapped, !!(d->mig.flags & VFIO_REGION_INFO_FLAG_MMAP));
	EXPECT_EQ(mapped ? 2 : 0, d->mig.areas);
	EXPECT_EQ(0, d->mig.offset % 8);
	EXPECT_EQ(d->mig.size, window_offset(d) + variant->size);
	if (!mapped) {
		EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED,
					   d->u.device, d->mig.offset + PAGE));
	}
}

/* From one size to the other, and back */
TEST_F(window, migration)
{
	struct dev *a = &self->p.a, *b = &self->p.b;
	size_t room[2];
	struct stream s = {};
	unsigned int i;

	room[0] = variant->other;
	room[1] = variant->size;
	for (i = 0; i < 2; i++) {
		struct dev *from = i ? b : a, *to = i ? a : b;
		size_t split = room[i] < WINDOW ? room[i] : WINDOW;

		ASSERT_EQ(0, scratch_fill(from, i + 1));
		ASSERT_EQ(0, save(from, &s, WINDOW));
		EXPECT_LE(s.size / (i ? room[0] : room[1]), s.chunks);
		ASSERT_EQ(0, resume(to, &s, WINDOW, split));
		EXPECT_EQ(0, scratch_check(to, i + 1));
		stream_free(&s);
		ASSERT_EQ(0, dev_reset(from));
	}
}

/*
 * Streams that must be refused
 */

FIXTURE(refused)
{
	struct pair p;
	struct stream s;
};

FIXTURE_SETUP(refused)
{
	ASSERT_EQ(0, pair_open(&self->p, TYPE, WINDOW));
	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, save(&self->p.a, &self->s, BY_MMAP));
	ASSERT_EQ(0, state_set(&self->p.a, RUNNING));
}

FIXTURE_TEARDOWN(refused)
{
	EXPECT_EQ(0, migrates(&self->p.a, &self->p.b, 77));
	EXPECT_EQ(0, pair_close(&self->p));
	stream_free(&self->s);
}

/*
 * Load what is not a stream of this device; 0 if it is refused as it should
 * be.  A refusal comes with data_size or at the end, never later; what came
 * before is in state 4, what comes after in state 6.
 */
static int refuses(const struct dev *d, const struct stream *s, size_t split)
{
	int ret, end;

	ret = state_set(d, RESUMING);
	if (ret)
		return ret;
	ret = stream_load(d, s, BY_MMAP, split);
	if (ret && ret != -EINVAL)
		return ret;
	if (state_get(d) != RESUMING)
		return -EPROTO;
	if (ret) {
		/* It is not forgotten by the next chunk, nor by a good one */
		if (size_set(d, 8) != -EINVAL)
			return -ENOMSG;
	}
	end = state_set(d, RUNNING);
	if (end != -EINVAL)
		return end ?: -EBADMSG;
	if (state_get(d) != ERROR)
		return -EPROTO;
	ret = dev_reset(d);
	if (ret)
		return ret;

	return state_get(d) == RUNNING ? 0 : -EPROTO;
}

TEST_F(refused, truncated)
{
	struct dev *b = &self->p.b;
	struct stream s = self->s;
	unsigned int i;
	size_t n;

	for (i = 0; i + 1 < self->s.chunks; i++) {
		s.size = self->s.end[i];
		ASSERT_EQ(0, refuses(b, &s, 0)) {
			TH_LOG("%u chunks of %u", i + 1, self->s.chunks);
		}
	}
	for (n = 1; n < self->s.size; n += n < 300 ? 1 : 1021) {
		s.size = n;
		ASSERT_EQ(0, refuses(b, &s, WINDOW)) {
			TH_LOG("%zu bytes of %zu", n, self->s.size);
		}
	}
	for (n = 1; n < 100; n++) {
		s.size = self->s.size - n;
		ASSERT_EQ(0, refuses(b, &s, WINDOW)) {
			TH_LOG("%zu bytes of %zu", s.size, self->s.size);
		}
	}
}

TEST_F(refused, reordered_repeated_and_dropped_chunks)
{
	struct stream bad = { .data = malloc(self->s.size + WINDOW) };
	struct stream *s = &self->s;
	unsigned int i;

	for (i = 0; i + 1 < s->chunks; i++) {
		size_t a = i ? s->end[i - 1] : 0, b = s->end[i];
		size_t c = s->end[i + 1];

		/* The next one first */
		memcpy(bad.data, s->data, a);
		memcpy(bad.data + a, s->data + b, c - b);
		memcpy(bad.data + a + c - b, s->data + a, b - a);
		memcpy(bad.data + c, s->data + c, s->size - c);
		bad.size = s->size;
		ASSERT_EQ(0, refuses(&self->p.b, &bad, WINDOW)) {
			TH_LOG("chunks %u and %u swapped", i, i + 1);
		}
		/* Twice */
		memcpy(bad.data, s->data, b);
		memcpy(bad.data + b, s->data + a, s->size - a);
		bad.size = s->size + b - a;
		ASSERT_EQ(0, refuses(&self->p.b, &bad, WINDOW)) {
			TH_LOG("chunk %u twice", i);
		}
		/* Not at all */
		memcpy(bad.data, s->data, a);
		memcpy(bad.data + a, s->data + b, s->size - b);
		bad.size = s->size - (b - a);
		ASSERT_EQ(0, refuses(&self->p.b, &bad, WINDOW)) {
			TH_LOG("chunk %u dropped", i);
		}
	}
	free(bad.data);
}

/* Each bit of the first and of the last chunk */
TEST_F(refused, each_bit_of_header_and_end_flipped)
{
	struct stream *s = &self->s;
	size_t bytes, at, n;
	unsigned int bit;

	bytes = s->end[0] < 128 ? s->end[0] : 128;
	n = s->size - s->end[s->chunks - 2];
	if (n > 192)
		n = 192;
	for (at = 0; at < s->size; at == bytes - 1 ? at = s->size - n : at++) {
		for (bit = 0; bit < 8; bit++) {
			s->data[at] ^= 1 << bit;
			ASSERT_EQ(0, refuses(&self->p.b, s, 0)) {
				TH_LOG("byte %zu, bit %u", at, bit);
			}
			s->data[at] ^= 1 << bit;
		}
	}
}

TEST_F(refused, one_bit_of_each_chunk_flipped)
{
	struct stream *s = &self->s;
	__u64 seed = 40, bit;
	unsigned int i, n;

	for (i = 0; i < s->chunks; i++) {
		size_t start = i ? s->end[i - 1] : 0;

		for (n = 0; n < 8; n++) {
			bit = random_next(&seed) % (8 * (s->end[i] - start));
			s->data[start + bit / 8] ^= 1 << bit % 8;
			ASSERT_EQ(0, refuses(&self->p.b, s, 0)) {
				TH_LOG("chunk %u, bit %llu", i,
				       (unsigned long long)bit);
			}
			s->data[start + bit / 8] ^= 1 << bit % 8;
		}
	}
	/* As it was, it is taken */
	ASSERT_EQ(0, resume(&self->p.b, s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(&self->p.b, 1));
}

/* What a sum would not see */
TEST_F(refused, bits_swapped_and_words_exchanged)
{
	struct stream *s = &self->s;
	size_t page = s->end[2], at;
	__u64 *word = (__u64 *)(s->data + (page & ~7UL)), keep;

	for (at = 0; at < 16; at++) {
		if (word[at] == word[at + 1])
			continue;
		keep = word[at];
		word[at] = word[at + 1];
		word[at + 1] = keep;
		ASSERT_EQ(0, refuses(&self->p.b, s, 0));
		word[at + 1] = word[at];
		word[at] = keep;

		/* One more here is one less there */
		word[at]++;
		word[at + 7]--;
		ASSERT_EQ(0, refuses(&self->p.b, s, 0));
		word[at]--;
		word[at + 7]++;
	}
}

/*
 * Pages that hold one small number each, as those of a quiet device do.  There
 * are checksums that do not tell these apart.
 */
TEST(sparse_pages_exchanged)
{
	static const __u64 numbers[][2] = {
		{ 0x8, 0x400 }, { 0xd, 0x8c }, { 0x15, 0x113 }, { 0x17, 0x96 },
	};
	struct pair p;
	unsigned int i;

	ASSERT_EQ(0, pair_open(&p, "mscratch-1m", WINDOW));
	for (i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct stream s = {};
		char page[WINDOW];
		size_t at;

		ASSERT_EQ(0, scratch_write(&p.a, 0, &numbers[i][0], 8));
		ASSERT_EQ(0, scratch_write(&p.a, WINDOW, &numbers[i][1], 8));
		ASSERT_EQ(0, save(&p.a, &s, BY_MMAP));
		ASSERT_EQ(0, state_set(&p.a, RUNNING));
		for (at = 0; at + 2 * WINDOW <= s.size; at++)
			if (!memcmp(s.data + at, &numbers[i][0], 8) &&
			    !memcmp(s.data + at + WINDOW, &numbers[i][1], 8))
				break;
		ASSERT_LE(at + 2 * WINDOW, s.size);
		memcpy(page, s.data + at, WINDOW);
		memcpy(s.data + at, s.data + at + WINDOW, WINDOW);
		memcpy(s.data + at + WINDOW, page, WINDOW);
		EXPECT_EQ(0, refuses(&p.b, &s, WINDOW)) {
			TH_LOG("%#llx and %#llx",
			       (unsigned long long)numbers[i][0],
			       (unsigned long long)numbers[i][1]);
		}
		stream_free(&s);
	}
	ASSERT_EQ(0, pair_close(&p));
}

/* A line that is stuck does that: one bit of the word, at two places */
TEST_F(refused, two_bits_flipped)
{
	struct stream *s = &self->s;
	__u64 *word = (__u64 *)(s->data + (s->end[2] & ~7UL));
	unsigned int bit, apart;

	for (bit = 0; bit < 64; bit += bit < 56 ? 8 : 1) {
		for (apart = 1; apart <= 64; apart += apart < 8 ? 1 : 8) {
			word[0] ^= 1ULL << bit;
			word[apart] ^= 1ULL << bit;
			ASSERT_EQ(0, refuses(&self->p.b, s, 0)) {
				TH_LOG("bit %u, %u words apart", bit, apart);
			}
			word[0] ^= 1ULL << bit;
			word[apart] ^= 1ULL << bit;
		}
	}
}

TEST_F(refused, data_behind_the_end)
{
	struct dev *b = &self->p.b;
	struct stream *s = &self->s;
	char byte = 0;

	ASSERT_EQ(0, state_set(b, RESUMING));
	ASSERT_EQ(0, stream_load(b, s, BY_MMAP, 0));
	EXPECT_EQ(-EINVAL, stream_put(b, &byte, 1, 1));
	EXPECT_EQ(RESUMING, state_get(b));
	EXPECT_EQ(-EINVAL, state_set(b, RUNNING));
	EXPECT_EQ(ERROR, state_get(b));
	ASSERT_EQ(0, dev_reset(b));

	/* The stream twice */
	ASSERT_EQ(0, state_set(b, RESUMING));
	ASSERT_EQ(0, stream_load(b, s, BY_MMAP, 0));
	EXPECT_EQ(-EINVAL, stream_load(b, s, BY_MMAP, 0));
	EXPECT_EQ(-EINVAL, state_set(b, STOP));
	EXPECT_EQ(ERROR, state_get(b));
	ASSERT_EQ(0, dev_reset(b));
}

TEST_F(refused, stream_of_another_type)
{
	struct stream s = {};
	struct dev c;

	ASSERT_EQ(0, dev_create(&c, "mscratch-1m", 2));
	ASSERT_EQ(0, dev_open(&c));
	ASSERT_EQ(0, dev_map(&c));
	EXPECT_EQ(0, refuses(&c, &self->s, 0));
	ASSERT_EQ(0, scratch_fill(&c, 6));
	ASSERT_EQ(0, save(&c, &s, BY_MMAP));
	EXPECT_EQ(0, refuses(&self->p.b, &s, 0));
	/* From the first chunk on, before anything is taken over */
	ASSERT_EQ(0, scratch_fill(&self->p.b, 3));
	ASSERT_EQ(0, state_set(&self->p.b, RESUMING));
	EXPECT_EQ(-EINVAL, stream_load(&self->p.b, &s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(&self->p.b, 3));
	ASSERT_EQ(0, dev_reset(&self->p.b));
	/* Each is right for its own */
	EXPECT_EQ(0, resume(&c, &s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(&c, 6));
	dev_close(&c);
	EXPECT_EQ(0, dev_remove(&c));
}

TEST_F(refused, junk)
{
	struct stream s = { .size = 3 * WINDOW };
	unsigned int i;

	s.data = calloc(1, s.size);
	EXPECT_EQ(0, refuses(&self->p.b, &s, WINDOW));
	memset(s.data, 0xff, s.size);
	EXPECT_EQ(0, refuses(&self->p.b, &s, WINDOW));
	for (i = 0; i < 100; i++) {
		pattern(s.data, s.size, i);
		/* Half of them with a good beginning */
		if (i % 2)
			memcpy(s.data, self->s.data, self->s.end[0]);
		ASSERT_EQ(0, refuses(&self->p.b, &s, WINDOW));
	}
	free(s.data);
}

/* Wherever an incomplete stream is left to */
TEST_F(refused, incomplete_stream_in_each_direction)
{
	struct dev *b = &self->p.b;
	int to;

	for (to = STOP; to <= PRE_COPY; to++) {
		ASSERT_EQ(0, state_set(b, RESUMING));
		ASSERT_EQ(0, chunks_load(b, &self->s, 0, 2));
		EXPECT_EQ(-EINVAL, state_set(b, to));
		EXPECT_EQ(ERROR, state_get(b));
		EXPECT_EQ(false, runs(b));
		ASSERT_EQ(0, dev_reset(b));
	}
}

/*
 * What the driver itself refuses
 */

TEST_F(refused, driver_fails_to_save)
{
	struct dev *d = &self->p.a;
	__u64 value, pending;
	struct stream s = {};
	struct chunk c;
	int fatal;

	for (fatal = 0; fatal < 2; fatal++) {
		ASSERT_EQ(0, scratch_fill(d, 1));
		ASSERT_EQ(0, state_set(d, STOP_COPY));
		ASSERT_EQ(1, chunk_next(d, &c));
		ASSERT_EQ(0, pending_get(d, &pending));
		ASSERT_EQ(0, debug_set(d, "fail_fatal", fatal));
		ASSERT_EQ(0, debug_set(d, "fail_save", 1));
		EXPECT_EQ(-EIO, offset_get(d, &value));
		EXPECT_EQ(fatal ? ERROR : STOP_COPY, state_get(d));
		ASSERT_EQ(0, debug_set(d, "fail_save", 0));
		ASSERT_EQ(0, debug_set(d, "fail_fatal", 0));
		if (!fatal) {
			/* The position is where it was */
			ASSERT_EQ(0, pending_get(d, &value));
			EXPECT_EQ(pending, value);
		}
		ASSERT_EQ(0, dev_reset(d));
	}
	ASSERT_EQ(0, scratch_fill(d, 1));
	ASSERT_EQ(0, state_set(d, STOP_COPY));
	for (;;) {
		int ret;

		ASSERT_EQ(0, pending_get(d, &pending));
		ASSERT_EQ(0, debug_set(d, "fail_save", 1));
		ASSERT_EQ(pending ? -EIO : 0, pending ? offset_get(d, &value) : 0);
		ASSERT_EQ(0, debug_set(d, "fail_save", 0));
		ret = chunk_next(d, &c);
		ASSERT_LE(0, ret);
		if (!ret)
			break;
		ASSERT_EQ(0, stream_append(d, &s, &c, BY_MMAP));
	}
	ASSERT_EQ(0, state_set(d, RUNNING));
	ASSERT_EQ(0, resume(&self->p.b, &s, BY_MMAP, WINDOW));
	EXPECT_EQ(0, scratch_check(&self->p.b, 1));
	stream_free(&s);
}

TEST_F(refused, driver_fails_to_load)
{
	struct dev *b = &self->p.b;
	struct stream s = {};
	int fatal;

	ASSERT_EQ(0, scratch_fill(&self->p.a, 1));
	ASSERT_EQ(0, save(&self->p.a, &s, BY_MMAP));
	for (fatal = 0; fatal < 2; fatal++) {
		ASSERT_EQ(0, state_set(b, RESUMING));
		ASSERT_EQ(0, stream_put(b, s.data, s.end[0], BY_MMAP));
		ASSERT_EQ(0, debug_set(b, "fail_fatal", fatal));
		ASSERT_EQ(0, debug_set(b, "fail_load", 1));
		EXPECT_EQ(-EIO, stream_put(b, s.data + s.end[0],
					   s.end[1] - s.end[0], BY_MMAP));
		EXPECT_EQ(fatal ? ERROR : RESUMING, state_get(b));
		ASSERT_EQ(0, debug_set(b, "fail_load", 0));
		ASSERT_EQ(0, debug_set(b, "fail_fatal", 0));
		EXPECT_EQ(-EINVAL, state_set(b, RUNNING));
		EXPECT_EQ(ERROR, state_get(b));
		ASSERT_EQ(0, dev_reset(b));
	}
	ASSERT_EQ(0, resume(b, &s, BY_MMAP, 0));
	EXPECT_EQ(0, scratch_check(b, 1));
}

/*
 * Streams that are made by hand: their checksum is right, what they say is not.
 * The form is what drivers/vfio/vfio_migration.c describes.
 */

#define STATE_SIZE	(SCRATCH + 48)
#define MAGIC		0x4752494dU
#define MAGIC_DATA	0x41544144U
#define MAGIC_END	0x20444e45U

struct header {
	__u32 magic;
	__u32 version;
	char type[32];
	__u32 type_version;
	__u32 reserved;
	__u64 state_size;
};

struct record {
	__u32 magic;
	__u32 sequence;
	__u64 pos;
	__u64 len;
	__u64 sum;
};

/* Registers of the device behind its scratch memory */
struct registers {
	__u64 iova;
	__u64 offset;
	__u64 length;
	__u64 count;
	__u32 control;
	__u32 status;
	__u32 error;
	__u32 reserved;
};

struct craft {
	struct pair p;
	struct stream s;
	__u32 sequence;
	struct header header;
	struct registers registers;
	char *memory;
};

FIXTURE(crafted)
{
	struct craft c;
};

FIXTURE_SETUP(crafted)
{
	ASSERT_EQ(0, pair_open(&self->c.p, TYPE, WINDOW));
	self->c.s.data = malloc(4 * STATE_SIZE);
	self->c.memory = malloc(SCRATCH);
	pattern(self->c.memory, SCRATCH, 9);
	self->c.header = (struct header) {
		.magic = MAGIC,
		.version = 2,
		.type = "mscratch",
		.type_version = MSCRATCH_VERSION,
		.state_size = STATE_SIZE,
	};
}

FIXTURE_TEARDOWN(crafted)
{
	EXPECT_EQ(0, migrates(&self->c.p.a, &self->c.p.b, 77));
	EXPECT_EQ(0, pair_close(&self->c.p));
	free(self->c.memory);
	stream_free(&self->c.s);
}

static void put(struct craft *c, const void *data, size_t len)
{
	memcpy(c->s.data + c->s.size, data, len);
	c->s.size += len;
}

static void put_header(struct craft *c)
{
	c->s.size = 0;
	c->sequence = 0;
	put(c, &c->header, sizeof(c->header));
}

static void put_record(struct craft *c, __u32 magic, __u64 pos, __u64 len,
		       __u64 sum)
{
	struct record r = {
		.magic = magic,
		.sequence = c->sequence++,
		.pos = pos,
		.len = len,
		.sum = sum,
	};

	put(c, &r, sizeof(r));
}

static void put_run(struct craft *c, __u64 pos, __u64 len)
{
	put_record(c, MAGIC_DATA, pos, len, 0);
	put(c, pos < SCRATCH ? c->memory + pos :
	    (char *)&c->registers + pos - SCRATCH, len);
}

static void put_end(struct craft *c)
{
	put_record(c, MAGIC_END, c->s.size, 0, xxh64(c->s.data, c->s.size));
}

static void put_all(struct craft *c)
{
	put_header(c);
	put_run(c, 0, SCRATCH);
	put_run(c, SCRATCH, sizeof(c->registers));
}

/* Refused with what was put last, and the device stays usable */
static int refuses_now(struct craft *c)
{
	struct dev *d = &c->p.b;
	int ret = state_set(d, RESUMING);

	ret = ret ?: stream_load(d, &c->s, BY_MMAP, WINDOW);
	if (ret == -EINVAL && state_get(d) == RESUMING &&
	    state_set(d, RUNNING) == -EINVAL && state_get(d) == ERROR)
		return dev_reset(d);
	/* What was taken must not be gone on with */
	dev_reset(d);

	return ret ?: -EBADMSG;
}

/* What all the others are held against */
TEST_F(crafted, right_stream_is_taken)
{
	struct craft *c = &self->c;
	char *seen = malloc(SCRATCH);
	struct stream s = {};

	c->registers.iova = 0x1234;
	c->registers.count = 7;
	c->registers.control = MSCRATCH_DMA_RW;
	c->registers.status = MSCRATCH_STATUS_DONE;
	put_all(c);
	put_end(c);
	ASSERT_EQ(0, resume(&c->p.b, &c->s, BY_MMAP, WINDOW));
	ASSERT_EQ(0, scratch_read(&c->p.b, 0, seen, SCRATCH));
	EXPECT_EQ(0, memcmp(seen, c->memory, SCRATCH));
	EXPECT_EQ(0x1234, reg_get64(&c->p.b, MSCRATCH_REG_DMA_IOVA));
	EXPECT_EQ(7, reg_get64(&c->p.b, MSCRATCH_REG_DMA_COUNT));
	EXPECT_EQ(MSCRATCH_STATUS_DONE,
		  reg_get32(&c->p.b, MSCRATCH_REG_DMA_STATUS));
	/* And what the device itself makes is the same, but for the registers */
	ASSERT_EQ(0, scratch_write(&c->p.a, 0, c->memory, SCRATCH));
	ASSERT_EQ(0, save(&c->p.a, &s, BY_MMAP));
	EXPECT_EQ(c->s.size, s.size);
	EXPECT_EQ(0, memcmp(c->s.data, s.data, sizeof(struct header) +
			    sizeof(struct record) + SCRATCH));
	ASSERT_EQ(0, state_set(&c->p.a, RUNNING));
	stream_free(&s);
	free(seen);
}

/* Runs of any cut, overlapping, again and again: the last one counts */
TEST_F(crafted, runs_of_any_cut_are_taken)
{
	char *seen = malloc(SCRATCH);
	__u64 seed = 5, at, len;
	struct craft *c = &self->c;
	unsigned int i;

	put_header(c);
	for (i = 0; i < 100; i++) {
		at = random_next(&seed) % STATE_SIZE;
		len = 1 + random_next(&seed) % 500;
		if (at < SCRATCH && len > SCRATCH - at)
			len = SCRATCH - at;
		if (len > STATE_SIZE - at)
			len = STATE_SIZE - at;
		put_record(c, MAGIC_DATA, at, len, 0);
		memset(c->s.data + c->s.size, 0, len);
		c->s.size += len;
	}
	for (at = 0; at < SCRATCH; at += len) {
		len = 1 + random_next(&seed) % 5000;
		if (len > SCRATCH - at)
			len = SCRATCH - at;
		put_run(c, at, len);
	}
	for (at = SCRATCH; at < STATE_SIZE; at++)
		put_run(c, at, 1);
	put_end(c);
	ASSERT_EQ(0, resume(&c->p.b, &c->s, BY_MMAP, 1021));
	ASSERT_EQ(0, scratch_read(&c->p.b, 0, seen, SCRATCH));
	EXPECT_EQ(0, memcmp(seen, c->memory, SCRATCH));
	free(seen);
}

/* A run that goes from the memory on into the registers */
TEST_F(crafted, run_across_the_parts_is_taken)
{
	struct craft *c = &self->c;
	char *all = malloc(STATE_SIZE);

	c->registers.length = 0x4321;
	memcpy(all, c->memory, SCRATCH);
	memcpy(all + SCRATCH, &c->registers, sizeof(c->registers));
	put_header(c);
	put_record(c, MAGIC_DATA, 0, STATE_SIZE, 0);
	put(c, all, STATE_SIZE);
	put_end(c);
	ASSERT_EQ(0, resume(&c->p.b, &c->s, BY_MMAP, 4093));
	EXPECT_EQ(0x4321, reg_get64(&c->p.b, MSCRATCH_REG_DMA_LENGTH));
	ASSERT_EQ(0, scratch_read(&c->p.b, 0, all, SCRATCH));
	EXPECT_EQ(0, memcmp(all, c->memory, SCRATCH));
	free(all);
}

/* What did not come is not what was there before */
TEST_F(crafted, missing_state_is_refused)
{
	struct craft *c = &self->c;
	unsigned int i;

	for (i = 0; i < 6; i++) {
		put_header(c);
		if (i == 1 || i == 5)
			put_run(c, 0, SCRATCH);
		if (i == 2 || i == 3 || i == 4 || i == 5)
			put_run(c, SCRATCH, sizeof(c->registers) - (i == 5));
		if (i == 3) {
			put_run(c, 0, 4095);
			put_run(c, 4096, SCRATCH - 4096);
		}
		if (i == 4)
			put_run(c, 1, SCRATCH - 1);
		put_end(c);
		EXPECT_EQ(0, refuses(&c->p.b, &c->s, WINDOW)) {
			TH_LOG("stream %u", i);
		}
	}
	/* In any order, and more than once */
	put_header(c);
	put_run(c, 4095, SCRATCH - 4095);
	put_run(c, SCRATCH, sizeof(c->registers));
	put_run(c, 0, 4095);
	put_run(c, 0, 4096);
	put_end(c);
	ASSERT_EQ(0, resume(&c->p.b, &c->s, BY_MMAP, WINDOW));
}

/* Of a large state what has come is known by larger pieces */
TEST(hole_in_a_large_state)
{
	static const struct {
		size_t at;
		size_t len;
	} holes[] = {
		{ 0, 1 }, { 1, 1 }, { MIB / 2, 1 }, { MIB / 2 + 1, 1 },
		{ MIB / 2 - 1, 2 }, { MIB / 2, 64 }, { MIB - 1, 1 }, { MIB, 1 },
		{ MIB + sizeof(struct registers) - 1, 1 },
		/* None */
		{ MIB / 2, 0 }, { MIB / 2 + 1, 0 },
	};
	struct craft c = {
		.header = {
			.magic = MAGIC,
			.version = 2,
			.type = "mscratch",
			.type_version = MSCRATCH_VERSION,
			.state_size = MIB + sizeof(struct registers),
		},
	};
	char *zeroes = calloc(2, MIB);
	unsigned int i;

	c.s.data = malloc(2 * MIB);
	ASSERT_NE(NULL, zeroes);
	ASSERT_NE(NULL, c.s.data);
	ASSERT_EQ(0, pair_open(&c.p, "mscratch-1m", MIB));
	for (i = 0; i < ARRAY_SIZE(holes); i++) {
		size_t behind = holes[i].at + holes[i].len;
		size_t rest = c.header.state_size - behind;

		put_header(&c);
		if (holes[i].at) {
			put_record(&c, MAGIC_DATA, 0, holes[i].at, 0);
			put(&c, zeroes, holes[i].at);
		}
		if (rest) {
			put_record(&c, MAGIC_DATA, behind, rest, 0);
			put(&c, zeroes, rest);
		}
		put_end(&c);
		EXPECT_EQ(0, holes[i].len ? refuses(&c.p.b, &c.s, MIB) :
			     resume(&c.p.b, &c.s, BY_MMAP, MIB)) {
			TH_LOG("%zu at %zu", holes[i].len, holes[i].at);
		}
	}
	ASSERT_EQ(0, pair_close(&c.p));
	stream_free(&c.s);
	free(zeroes);
}

/* It changes nothing, whatever is being done with what was loaded */
TEST(resuming_is_written_again)
{
	struct stream s = {};
	struct pair p;
	size_t at, n;

	ASSERT_EQ(0, pair_open(&p, "mscratch-64m", MIB));
	ASSERT_EQ(0, scratch_fill(&p.a, 1));
	ASSERT_EQ(0, save(&p.a, &s, BY_MMAP));
	ASSERT_EQ(0, state_set(&p.b, RESUMING));
	for (at = 0; at < s.size; at += n) {
		n = s.size - at < MIB ? s.size - at : MIB;
		ASSERT_EQ(0, stream_put(&p.b, s.data + at, n, BY_MMAP));
		ASSERT_EQ(0, state_set(&p.b, RESUMING));
	}
	ASSERT_EQ(0, state_set(&p.b, RUNNING));
	EXPECT_EQ(0, scratch_check(&p.b, 1));
	ASSERT_EQ(0, state_set(&p.a, RUNNING));
	stream_free(&s);
	ASSERT_EQ(0, pair_close(&p));
}

TEST_F(crafted, other_versions_are_refused)
{
	static const __u32 versions[] = {
		0, 1, 2, 3, 0x100, 0x1000000, ~0U
	};
	struct craft *c = &self->c;
	struct header right = c->header;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(versions); i++) {
		if (versions[i] != right.version) {
			c->header.version = versions[i];
			put_header(c);
			EXPECT_EQ(0, refuses_now(c));
			c->header = right;
		}
		if (versions[i] == right.type_version)
			continue;
		c->header.type_version = versions[i];
		put_header(c);
		EXPECT_EQ(0, refuses_now(c));
		c->header = right;
		/* Also when all of it is right but for this */
		c->header.type_version = versions[i];
		put_all(c);
		put_end(c);
		EXPECT_EQ(0, refuses(&c->p.b, &c->s, WINDOW));
		c->header = right;
	}
}

TEST_F(crafted, other_types_are_refused)
{
	static const char * const types[] = {
		"", "mscratc", "mscratch2", "Mscratch", "another device",
	};
	struct craft *c = &self->c;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(types); i++) {
		memset(c->header.type, 0, sizeof(c->header.type));
		memcpy(c->header.type, types[i], strlen(types[i]));
		put_header(c);
		EXPECT_EQ(0, refuses_now(c));
		put_all(c);
		put_end(c);
		EXPECT_EQ(0, refuses(&c->p.b, &c->s, WINDOW));
	}
	/* Neither anything behind the name, nor a name without an end */
	memset(c->header.type, 0, sizeof(c->header.type));
	memcpy(c->header.type, "mscratch", strlen("mscratch"));
	for (i = strlen("mscratch"); i < sizeof(c->header.type); i++) {
		c->header.type[i] = 'x';
		put_header(c);
		EXPECT_EQ(0, refuses_now(c));
	}
}

TEST_F(crafted, other_headers_are_refused)
{
	static const __u64 sizes[] = {
		0, 1, SCRATCH, STATE_SIZE - 1, STATE_SIZE + 1, 1 << 20,
		1ULL << 32, ~0ULL,
	};
	struct craft *c = &self->c;
	struct header right = c->header;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		c->header.state_size = sizes[i];
		put_header(c);
		EXPECT_EQ(0, refuses_now(c));
	}
	c->header = right;
	c->header.reserved = 1;
	put_header(c);
	EXPECT_EQ(0, refuses_now(c));
	c->header = right;
	c->header.magic = MAGIC_DATA;
	put_header(c);
	EXPECT_EQ(0, refuses_now(c));
	/* Twice */
	c->header = right;
	put_header(c);
	put(c, &c->header, sizeof(c->header));
	EXPECT_EQ(0, refuses_now(c));
}

TEST_F(crafted, runs_that_do_not_fit_are_refused)
{
	static const struct {
		__u64 pos, len;
	} runs_of[] = {
		{ 0, 0 }, { 0, STATE_SIZE + 1 }, { 1, STATE_SIZE },
		{ STATE_SIZE, 1 }, { STATE_SIZE, 0 }, { STATE_SIZE - 1, 2 },
		{ STATE_SIZE - 1, ~0ULL }, { 0, ~0ULL }, { 8, ~0ULL - 7 },
		{ ~0ULL, 1 }, { ~0ULL, 2 }, { ~0ULL - 7, 16 },
		{ ~0ULL - PAGE + 1, 2 * PAGE }, { 1ULL << 63, 1ULL << 63 },
		{ 1ULL << 32, 8 }, { 0, 1ULL << 32 },
		{ (1ULL << 32) + 8, (1ULL << 32) - 8 },
	};
	struct craft *c = &self->c;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(runs_of); i++) {
		put_header(c);
		put_record(c, MAGIC_DATA, runs_of[i].pos, runs_of[i].len, 0);
		EXPECT_EQ(0, refuses_now(c)) {
			TH_LOG("run %u", i);
		}
		/* Also in the middle */
		put_all(c);
		put_record(c, MAGIC_DATA, runs_of[i].pos, runs_of[i].len, 0);
		EXPECT_EQ(0, refuses_now(c)) {
			TH_LOG("run %u", i);
		}
	}
}

TEST_F(crafted, other_records_are_refused)
{
	struct craft *c = &self->c;
	__u32 first;
	__u64 sum;

	/* Of no kind */
	put_header(c);
	put_record(c, 0, 0, 8, 0);
	EXPECT_EQ(0, refuses_now(c));
	put_header(c);
	put_record(c, MAGIC, 0, 8, 0);
	EXPECT_EQ(0, refuses_now(c));
	/* With a sum that is not its own */
	put_header(c);
	put_record(c, MAGIC_DATA, 0, 8, 1);
	EXPECT_EQ(0, refuses_now(c));
	/* Out of sequence: ahead, twice, back */
	for (first = 1; first < 3; first++) {
		put_header(c);
		c->sequence = first;
		put_record(c, MAGIC_DATA, 0, 8, 0);
		EXPECT_EQ(0, refuses_now(c));
	}
	put_header(c);
	put_run(c, 0, 8);
	c->sequence = 0;
	put_record(c, MAGIC_DATA, 8, 8, 0);
	EXPECT_EQ(0, refuses_now(c));
	put_header(c);
	put_run(c, 0, 8);
	c->sequence = ~0U;
	put_record(c, MAGIC_DATA, 8, 8, 0);
	EXPECT_EQ(0, refuses_now(c));

	/* Ends that are none */
	put_all(c);
	sum = xxh64(c->s.data, c->s.size);
	put_record(c, MAGIC_END, c->s.size, 0, sum + 1);
	EXPECT_EQ(0, refuses_now(c));
	put_all(c);
	put_record(c, MAGIC_END, c->s.size, 0, sum ^ 1ULL << 63);
	EXPECT_EQ(0, refuses_now(c));
	put_all(c);
	put_record(c, MAGIC_END, c->s.size, 1, sum);
	EXPECT_EQ(0, refuses_now(c));
	put_all(c);
	put_record(c, MAGIC_END, c->s.size, 0, 0);
	EXPECT_EQ(0, refuses_now(c));
	put_all(c);
	put_record(c, MAGIC_END, c->s.size - 1, 0, sum);
	EXPECT_EQ(0, refuses_now(c));
	put_all(c);
	put_record(c, MAGIC_END, 0, 0, sum);
	EXPECT_EQ(0, refuses_now(c));
	put_all(c);
	c->sequence++;
	put_end(c);
	EXPECT_EQ(0, refuses_now(c));
	/* Two of them */
	put_all(c);
	put_end(c);
	put_end(c);
	EXPECT_EQ(0, refuses_now(c));
}

/* The state itself may be nonsense: that is the driver's to see */
TEST_F(crafted, registers_that_cannot_be_are_refused)
{
	struct craft *c = &self->c;
	unsigned int i;

	for (i = 0; i < 7; i++) {
		struct registers r = {};

		switch (i) {
		case 0:
			r.status = MSCRATCH_STATUS_BUSY;
			break;
		case 1:
			r.status = MSCRATCH_STATUS_ERROR + 1;
			break;
		case 2:
			r.status = ~0U;
			break;
		case 3:
			r.control = MSCRATCH_DMA_START;
			break;
		case 4:
			r.control = MSCRATCH_DMA_CONTROL_MASK + 1;
			break;
		case 5:
			r.control = 1U << 31;
			break;
		default:
			r.reserved = 1;
		}
		c->registers = r;
		put_all(c);
		put_end(c);
		EXPECT_EQ(0, refuses(&c->p.b, &c->s, WINDOW)) {
			TH_LOG("registers %u", i);
		}
	}
	/* Addresses are looked at when they are used */
	c->registers = (struct registers) {
		.iova = ~0ULL, .offset = ~0ULL, .length = ~0ULL,
		.control = MSCRATCH_DMA_RW,
	};
	put_all(c);
	put_end(c);
	ASSERT_EQ(0, resume(&c->p.b, &c->s, BY_MMAP, WINDOW));
	ASSERT_EQ(0, reg_set32(&c->p.b, MSCRATCH_REG_DMA_CONTROL,
			       MSCRATCH_DMA_START));
	EXPECT_EQ(MSCRATCH_STATUS_ERROR, dma_wait(&c->p.b));
}

TEST_HARNESS_MAIN
