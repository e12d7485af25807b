// SPDX-License-Identifier: GPL-2.0-only
/*
 * The migration region: each of the eight values of device_state, written in
 * each of the eight
 *
 * Nobody gets into the two invalid states.  What is tried from there goes on
 * from where the device was when it was told to go there.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../kselftest.h"
#include "vfio_migration_region_lib.h"
#include "mscratch.h"

#define WINDOW	4096UL

static const char * const names[STATES] = {
	"stop", "running", "stop-and-copy", "pre-copy", "resuming",
	"invalid 5", "error", "invalid 7",
};

static struct pair pair;

static bool expect(const char *what, long expected, long seen)
{
	if (expected != seen)
		printf("# %s: expected %ld, seen %ld\n", what, expected, seen);

	return expected == seen;
}

static bool try(int from, int to)
{
	bool invalid = from == INVALID_5 || from == INVALID_7;
	const struct dev *d = &pair.a;
	int at = invalid ? RUNNING : from;
	bool allowed = at != ERROR && to <= RESUMING;
	int now = allowed ? to : at;
	bool ok;

	ok = expect("reset", 0, dev_reset(d));
	ok &= expect("state after a reset", RUNNING, state_get(d));
	ok &= expect("fill", 0, scratch_fill(d, 1));
	ok &= expect("way to the first state", invalid ? -EINVAL : 0,
		     enter(d, from));
	ok &= expect("first state", at, state_get(d));

	ok &= expect("write", allowed ? 0 : -EINVAL, state_set(d, to));
	ok &= expect("state", now, state_get(d));
	ok &= expect("device runs", now == RUNNING || now == PRE_COPY, runs(d));
	/* Nothing but a write changes it */
	ok &= expect("state later", now, state_get(d));
	if (at != ERROR) {
		ok &= expect("scratch memory", 0, scratch_check(d, 1));
		/* Wherever it is, a program can go on from there */
		ok &= expect("stop", 0, state_set(d, STOP));
		ok &= expect("run", 0, state_set(d, RUNNING));
	}

	/* And the device is as good as before */
	ok &= expect("reset", 0, dev_reset(d));
	ok &= expect("state after a reset", RUNNING, state_get(d));
	ok &= expect("migration", 0, migrates(d, &pair.b, 2));

	return ok;
}

int main(void)
{
	int from, to, ret;

	ksft_print_header();
	ksft_set_plan(STATES * STATES);
	ret = pair_open(&pair, "mscratch-64k", WINDOW);
	if (ret)
		ksft_exit_fail_msg("no devices: %s\n", strerror(-ret));
	for (from = STOP; from < STATES; from++) {
		for (to = STOP; to < STATES; to++)
			ksft_test_result(try(from, to), "%s to %s\n",
					 names[from], names[to]);
	}
	pair_close(&pair);
	ksft_exit(!ksft_get_fail_cnt());
}
