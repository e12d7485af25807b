// SPDX-License-Identifier: GPL-2.0
/*
 * PID 1 of the emulated machines.
 *
 * Runs the tests that /lab/tests lists and reports on a serial line of its
 * own, the channel: KTAP, one subtest a test, each on a pseudo terminal so
 * that its lines come as they are printed. After every test the kernel log is
 * searched, and once more at the very end; only then the verdict is written,
 * as the last line. No verdict means that the guest died.
 *
 * /lab/tests, a line a test, fields separated by one blank:
 *	INTERFACE TIMEOUT MODULES NAME COMMAND...
 * TIMEOUT in seconds; MODULES separated by commas, in the order of loading,
 * "-" for none; a colon and parameters, separated by colons, behind a module
 * make it be loaded anew with these. NAME is what the results call the test.
 * COMMAND is a program with its arguments, or "kunit FOLDER/SUITE": the suite
 * runs when its module is loaded, and its results are read from the kernel log,
 * since debugfs keeps no more than 512 bytes of a case.
 *
 * /lab/log, a line a message of level err or above that is no fault:
 *	TEST<tab>REGEX<tab>REASON
 * where TEST is an expression of the name of the test that may cause it.
 *
 * Kernel command line: lab.channel=DEVICE, or lab.channel=uart:ADDRESS for a
 * 16550 at that physical address that the kernel has no driver for; and
 * lab.shell for a shell on the console in place of the tests; and
 * lab.taint=MASK, the bits of /proc/sys/kernel/tainted that the machine's own
 * modules explain; and lab.clocksource=NAME for tests that must not begin before
 * the kernel has it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define MAX_ARGS	32
/* How long a killed test may take to be gone, in milliseconds. */
#define REAP_MS		5000
/* Modules built outside the tree, as those of the tests are: TAINT_OOT_MODULE. */
#define TAINT_DEFAULT	4096

static FILE *channel;
static int kmsg = -1;

/*
 * What a healthy kernel does not say. Each is a piece of the first line of
 * such a report.
 */
static const char * const splats[] = {
	"BUG:", "BUG at ", "kernel BUG", "WARNING:", "Oops", "KASAN:", "UBSAN:",
	"general protection fault", "Unable to handle", "invalid opcode",
	"possible circular locking", "possible recursive locking",
	"inconsistent lock state", "suspicious RCU usage",
	"possible irq lock inversion", "sleeping function called",
	"scheduling while atomic", "bad unlock balance", "held lock freed",
	"lock held when returning", "detected stall", "stall on CPU",
	"soft lockup", "hung_task", "blocked for more than", "refcount_t:",
	"kmemleak:", "Call Trace:", "list_add corruption",
	"list_del corruption", "Kernel panic", "failing symbol_get",
};

/*
 * Not faults: kmemleak's announcements of itself, and that it looks at more than
 * it has to, as one of its own allocations was made to fail.
 */
static const char * const harmless[] = {
	"kmemleak: Kernel memory leak detector initialized",
	"kmemleak: Automatic memory scanning thread",
	"kmemleak: Cannot allocate a scan area, scanning the full object",
};

/* What /lab/log lists: messages that are no fault in some tests. */
#define MAX_EXPECTED	64
static struct {
	regex_t test, message;
} expected[MAX_EXPECTED];
static size_t nr_expected;

/* The test that runs, "boot" before the first and "end" after the last */
static const char *running = "boot";

/* What the kernel logged while a suite of KUnit ran, NULL when none does. */
static FILE *kunit_log;

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(channel, fmt, ap);
	va_end(ap);
	fflush(channel);
}

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	/* A machine that cannot: the emulator ends on the verdict. */
	for (;;)
		pause();
}

/* The line that tells apart what the kernel says after the verdict. */
static void mark_end(void)
{
	FILE *f;

	f = fopen("/dev/kmsg", "we");
	if (f) {
		fputs("<5>lab: the verdict is written", f);
		fclose(f);
	}
}

static void mount_one(const char *type, const char *where, const char *data)
{
	mkdir(where, 0755);
	if (mount(type, where, type, 0, data) && errno != EBUSY)
		fprintf(stderr, "init: no %s on %s: %s\n", type, where,
			strerror(errno));
}

/* The value of "key" on the kernel command line, "" for a bare word. */
static const char *boot_option(const char *key)
{
	static char line[4096];
	size_t len = strlen(key);
	char *word;
	FILE *f;

	f = fopen("/proc/cmdline", "r");
	if (!f || !fgets(line, sizeof(line), f))
		line[0] = '\0';
	if (f)
		fclose(f);
	for (word = strtok(line, "\n "); word; word = strtok(NULL, "\n "))
		if (!strncmp(word, key, len)) {
			if (!word[len])
				return "";
			if (word[len] == '=')
				return word + len + 1;
		}
	return NULL;
}

static void read_expected(void)
{
	char line[512];
	FILE *f;

	f = fopen("/lab/log", "re");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		char *message = strchr(line, '\t'), *reason;
		int flags = REG_EXTENDED | REG_NOSUB;

		if (line[0] == '#' || line[0] == '\n')
			continue;
		reason = message ? strchr(message + 1, '\t') : NULL;
		if (reason) {
			*message++ = '\0';
			*reason = '\0';
		}
		if (!reason || nr_expected == MAX_EXPECTED ||
		    regcomp(&expected[nr_expected].test, line, flags) ||
		    regcomp(&expected[nr_expected].message, message, flags))
			say("# lab: reason bad line in the list of messages: %s\n",
			    line);
		else
			nr_expected++;
	}
	fclose(f);
}

/* Is this message a fault? LEVEL is its syslog level, 3 is err. */
static bool is_fault(const char *text, int level)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(harmless); i++)
		if (strstr(text, harmless[i]))
			return false;
	for (i = 0; i < nr_expected; i++)
		if (!regexec(&expected[i].test, running, 0, NULL, 0) &&
		    !regexec(&expected[i].message, text, 0, NULL, 0))
			return false;
	for (i = 0; i < ARRAY_SIZE(splats); i++)
		if (strstr(text, splats[i]))
			return true;
	return level <= 3;
}

/* The kernel writes what is not printable as \xNN: make it what it was. */
static void unescape(char *text)
{
	char *to = text;
	unsigned int c;

	while (*text) {
		if (sscanf(text, "\\x%2x", &c) == 1) {
			*to++ = c;
			text += 4;
		} else {
			*to++ = *text++;
		}
	}
	*to = '\0';
}

/* Read what the kernel logged since the last time; report each fault. */
static int search_log(void)
{
	char record[8192];
	int found = 0;
	ssize_t n;

	while ((n = read(kmsg, record, sizeof(record) - 1)) > 0 ||
	       (n < 0 && errno == EPIPE)) {
		char *text;

		if (n < 0) {
			say("  # kernel: the log was overrun, lines were lost\n");
			found++;
			continue;
		}
		record[n] = '\0';
		text = strchr(record, ';');
		if (!text)
			continue;
		*text++ = '\0';
		text[strcspn(text, "\n")] = '\0';
		if (is_fault(text, atoi(record) & 7)) {
			say("  # kernel: %s\n", text);
			found++;
		}
		if (kunit_log) {
			unescape(text);
			fprintf(kunit_log, "%s\n", text);
		}
	}
	return found;
}

/*
 * Taints that nothing explains: a splat that this program does not know, a
 * module that was forced.
 */
static int search_taint(void)
{
	static unsigned long seen;
	const char *mask = boot_option("lab.taint");
	unsigned long taint = 0;
	FILE *f;

	f = fopen("/proc/sys/kernel/tainted", "re");
	if (!f || fscanf(f, "%lu", &taint) != 1) {
		say("  # no /proc/sys/kernel/tainted: %s\n", strerror(errno));
		taint = ~0UL;
	}
	if (f)
		fclose(f);
	taint &= ~((mask ? strtoul(mask, NULL, 0) : TAINT_DEFAULT) | seen);
	/* One test is to blame, not all that follow. */
	seen |= taint;
	if (taint)
		say("  # kernel: tainted by 0x%lx, see tainted-kernels.rst\n",
		    taint);
	return !!taint;
}

/* A file's name may have either of "-" and "_", a module's has the latter. */
static void unload_module(const char *name)
{
	char module[256], *p;

	snprintf(module, sizeof(module), "%s", name);
	for (p = module; *p; p++)
		if (*p == '-')
			*p = '_';
	syscall(SYS_delete_module, module, O_NONBLOCK);
}

static bool load_module(char *name)
{
	char *parameters = strchr(name, ':'), *p;
	char path[512];
	int fd, rc;

	if (parameters) {
		*parameters++ = '\0';
		for (p = parameters; *p; p++)
			if (*p == ':')
				*p = ' ';
		unload_module(name);
	}
	snprintf(path, sizeof(path), "/lab/modules/%s.ko", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	rc = fd < 0 ? -1 : syscall(SYS_finit_module, fd,
				   parameters ? parameters : "", 0);
	if (rc && errno == EEXIST && !parameters)
		rc = 0;
	if (rc)
		say("  # module %s: %s\n", name, strerror(errno));
	if (fd >= 0)
		close(fd);
	return !rc;
}

/*
 * One line of a test. A result line is followed by the time since the one
 * before it.
 */
static void forward(char *line, long long *last)
{
	long long t = now_ms();
	char *p = line;

	line[strcspn(line, "\r\n")] = '\0';
	say("  %s\n", line);
	p += strspn(p, " ");
	if (!strncmp(p, "ok ", 3) || !strncmp(p, "not ok ", 7)) {
		say("  # seconds %lld.%03lld\n", (t - *last) / 1000,
		    (t - *last) % 1000);
		*last = t;
	}
}

/* The suite's lines, out of all that was logged since its module was loaded. */
static int run_kunit(const char *suite, char *log)
{
	char *line, *save, title[256], end[256];
	long long last = now_ms();
	bool in = false, failed = false;
	size_t len;

	/* The file of a suite is in a folder of its subsystem. */
	if (strrchr(suite, '/'))
		suite = strrchr(suite, '/') + 1;
	snprintf(title, sizeof(title), "# Subtest: %s", suite);
	snprintf(end, sizeof(end), " - %s", suite);
	say("  1..1\n");
	for (line = strtok_r(log, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		char *text = line + strspn(line, " \t");
		bool result = !strncmp(text, "ok ", 3) ||
			      !strncmp(text, "not ok ", 7);

		if (!strcmp(text, title))
			in = true;
		if (!in)
			continue;
		failed |= result && *text == 'n';
		/*
		 * Messages of the code under test come in between, and what an
		 * expectation saw is spread over several lines.
		 */
		if (result || *text == '#' || !strncmp(text, "1..", 3))
			forward(line, &last);
		else if (text != line)
			say("      # %s\n", text);
		len = strlen(line);
		if (text == line && len > strlen(end) &&
		    !strcmp(line + len - strlen(end), end))
			return failed;
	}
	say("  # the kernel log has no result of suite %s\n", suite);
	return 1;
}

/* The session that a process belongs to, 0 if there is no such process. */
static pid_t session_of(pid_t pid, char *comm, size_t size)
{
	char path[64], line[1024], *p;
	int session = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fgets(line, sizeof(line), f)) {
		p = strrchr(line, ')');
		/* Fields 3 to 6: state, parent, group, session */
		if (p && sscanf(p + 1, " %*c %*d %*d %d", &session) == 1) {
			*p = '\0';
			p = strchr(line, '(');
			snprintf(comm, size, "%s", p ? p + 1 : "?");
		}
	}
	fclose(f);
	return session;
}

/* Kill a process and wait for its end, as long as that may take. */
static void end_process(pid_t pid)
{
	struct pollfd pfd = { .events = POLLIN };

	pfd.fd = syscall(SYS_pidfd_open, pid, 0);
	kill(pid, SIGKILL);
	if (pfd.fd < 0)
		return;
	poll(&pfd, 1, REAP_MS);
	close(pfd.fd);
}

/*
 * End what a test left behind: every process but this one and the kernel's threads,
 * which belong to session 0. Returns how many there were.
 */
static int end_leftovers(void)
{
	struct dirent *entry;
	char comm[64];
	int found = 0;
	DIR *proc;

	proc = opendir("/proc");
	if (!proc)
		return 0;
	while ((entry = readdir(proc))) {
		pid_t pid = atoi(entry->d_name);

		if (pid <= 1 || session_of(pid, comm, sizeof(comm)) <= 0)
			continue;
		/* What is dead already waits for us alone. */
		if (waitpid(pid, NULL, WNOHANG) == pid)
			continue;
		say("  # left behind: process %d, %s\n", pid, comm);
		end_process(pid);
		found++;
	}
	closedir(proc);
	/* Their children are ours now. */
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return found;
}

/* What a child's end is noticed by */
static int child_ended[2];

static void on_child(int sig)
{
	int saved = errno;

	(void)sig;
	/* A full pipe has woken the reader already. */
	if (write(child_ended[1], "", 1) < 0 && errno != EAGAIN)
		_exit(1);
	errno = saved;
}

/*
 * Run a program on a pseudo terminal and forward its lines until it has ended,
 * whoever else still holds the terminal. Returns its wait status, or -1 when it
 * ran out of time.
 */
static int run_program(char **argv, int timeout)
{
	long long start = now_ms(), last = start;
	long long end = start + timeout * 1000LL;
	int status = -1, master, slave;
	char buf[4096], line[4096];
	bool killed = false, ended = false;
	size_t len = 0;
	pid_t pid;

	master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (master < 0 || grantpt(master) || unlockpt(master)) {
		say("  # no pseudo terminal: %s\n", strerror(errno));
		return 1 << 8;
	}
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	pid = fork();
	if (!pid) {
		signal(SIGCHLD, SIG_DFL);
		setsid();
		dup2(slave, 0);
		dup2(slave, 1);
		dup2(slave, 2);
		close(slave);
		if (chdir("/lab/tests.d"))
			_exit(127);
		execv(argv[0], argv);
		fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	close(slave);

	for (;;) {
		struct pollfd pfd[] = {
			{ .fd = master, .events = POLLIN },
			{ .fd = child_ended[0], .events = POLLIN },
		};
		long long left = end - now_ms();
		ssize_t n, i;

		if (left <= 0 && !ended) {
			/* A process that cannot be killed must not hold up the verdict. */
			if (killed)
				break;
			kill(-pid, SIGKILL);
			killed = true;
			end = now_ms() + REAP_MS;
			continue;
		}
		if (!ended && waitpid(pid, &status, WNOHANG) == pid)
			ended = true;
		/* After its end only what it has written already is of interest. */
		if (poll(pfd, ARRAY_SIZE(pfd), ended ? 0 : (int)left) < 0 &&
		    errno != EINTR)
			break;
		if (pfd[1].revents & POLLIN)
			n = read(child_ended[0], buf, sizeof(buf));
		if (!(pfd[0].revents & (POLLIN | POLLHUP))) {
			if (ended)
				break;
			continue;
		}
		n = read(master, buf, sizeof(buf));
		/* EIO once nobody holds the other end any more. */
		if (n <= 0) {
			if (ended)
				break;
			/* It may have ended since it was looked at. */
			if (!(pfd[1].revents & POLLIN))
				poll(&pfd[1], 1, left);
			continue;
		}
		for (i = 0; i < n; i++) {
			if (len < sizeof(line) - 1)
				line[len++] = buf[i];
			if (buf[i] == '\n') {
				line[len] = '\0';
				forward(line, &last);
				len = 0;
			}
		}
	}
	if (len) {
		line[len] = '\0';
		forward(line, &last);
	}
	close(master);
	return killed ? -1 : status;
}

/* Run one line of the list. True if nothing is to be complained about. */
static bool run_test(char *line, int number)
{
	char *interface = strtok(line, "\n "), *word = strtok(NULL, "\n ");
	char *modules = strtok(NULL, "\n "), *name = strtok(NULL, "\n ");
	char *argv[MAX_ARGS], *m, *save, *log = NULL;
	int timeout, argc = 0, status = 0, found, left;
	long long start = now_ms();
	const char *why = NULL;
	size_t size;
	char reason[64];
	bool kunit;

	while (argc < MAX_ARGS - 1 && (argv[argc] = strtok(NULL, "\n ")))
		argc++;
	argv[argc] = NULL;
	if (!argc) {
		say("not ok %d bad line in the list of tests\n", number);
		return false;
	}
	timeout = atoi(word);
	kunit = !strcmp(argv[0], "kunit") && argc == 2;

	say("# lab: test %s %s\n", interface, name);
	/* What was logged until now is not this test's, and must not be lost. */
	found = search_log();
	running = name;
	if (kunit)
		kunit_log = open_memstream(&log, &size);
	for (m = strtok_r(modules, ",", &save); m && strcmp(modules, "-");
	     m = strtok_r(NULL, ",", &save))
		if (!load_module(m))
			why = "a module did not load";
	if (kunit) {
		found += search_log();
		fclose(kunit_log);
		kunit_log = NULL;
		if (!why)
			status = run_kunit(argv[1], log) << 8;
		free(log);
	} else if (!why) {
		status = run_program(argv, timeout);
	}
	left = end_leftovers();
	if (left)
		say("  not ok nothing is left behind\n");
	found += search_log();
	found += search_taint();
	/* A case like the others: a splat must be seen in the results. */
	say("  %sok kernel log is clean\n", found ? "not " : "");

	if (!why && status == -1) {
		snprintf(reason, sizeof(reason), "no end within %d s", timeout);
		why = reason;
	} else if (!why && WIFSIGNALED(status)) {
		snprintf(reason, sizeof(reason), "killed by signal %d",
			 WTERMSIG(status));
		why = reason;
	} else if (!why && WEXITSTATUS(status) == 4) {
		say("ok %d %s # SKIP the test cannot run here\n", number, name);
		return !found && !left;
	} else if (!why && WEXITSTATUS(status)) {
		snprintf(reason, sizeof(reason), "exit status %d",
			 WEXITSTATUS(status));
		why = reason;
	}
	say("# lab: seconds %lld.%03lld\n", (now_ms() - start) / 1000,
	    (now_ms() - start) % 1000);
	if (why)
		say("# lab: reason %s\n", why);
	say("%sok %d %s\n", why || found || left ? "not " : "", number, name);
	return !why && !found && !left;
}

/*
 * Let kmemleak, in a kernel that has it, look for what nothing points to any
 * more. What it finds it says in the kernel log, "kmemleak:" in front; here are
 * the objects themselves. It passes over memory that was allocated in the last
 * 5 seconds (MSECS_MIN_AGE in mm/kmemleak.c), so this is waited for.
 */
static void search_leaks(void)
{
	char line[512];
	FILE *f;
	int i;

	f = fopen("/sys/kernel/debug/kmemleak", "r+e");
	if (!f)
		return;
	say("# lab: search for leaked memory\n");
	sleep(6);
	/* An object is a leak when nothing changed in it since the scan before. */
	for (i = 0; i < 2; i++) {
		fputs("scan", f);
		fflush(f);
	}
	rewind(f);
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		say("  # leak: %s\n", line);
	}
	fclose(f);
}

#define GCOV		"/sys/kernel/debug/gcov"

/* The file that gcov looks for, and its bytes, for "coverage" on the host */
static int say_counts(const char *path, const struct stat *st, int type,
		      struct FTW *ftw)
{
	unsigned char bytes[512];
	size_t i, n;
	FILE *f;

	(void)st;
	if (type != FTW_F || !strstr(path + ftw->base, ".gcda"))
		return 0;
	f = fopen(path, "re");
	if (!f)
		return 0;
	say("# lab: coverage %s\n", path + strlen(GCOV));
	while ((n = fread(bytes, 1, sizeof(bytes), f))) {
		say("# lab: coverage ");
		for (i = 0; i < n; i++)
			fprintf(channel, "%02X", bytes[i]);
		say("\n");
	}
	fclose(f);
	return 0;
}

/*
 * Take the modules out again, those that nothing uses first: what goes wrong
 * then belongs into the verdict as well. A module that is still in use is a
 * reference that somebody did not give back.
 */
static bool unload_all(void)
{
	char line[1024], name[256], users[16];
	bool progress = true, stays = false;
	FILE *f;

	while (progress) {
		progress = false;
		f = fopen("/proc/modules", "re");
		if (!f)
			return true;
		while (fgets(line, sizeof(line), f))
			if (sscanf(line, "%255s %*s %15s", name, users) == 2 &&
			    !strcmp(users, "0") &&
			    !syscall(SYS_delete_module, name, O_NONBLOCK))
				progress = true;
		fclose(f);
	}
	f = fopen("/proc/modules", "re");
	while (f && fgets(line, sizeof(line), f))
		/* "[permanent]": a module without an end, by design */
		if (!strstr(line, "[permanent]") &&
		    sscanf(line, "%255s %*s %15s", name, users) == 2) {
			say("# lab: reason module %s stays, with %s references\n",
			    name, users);
			stays = true;
		}
	if (f)
		fclose(f);
	return !stays;
}

static void run_tests(void)
{
	char line[1024];
	bool good = true;
	int n = 0, plan = 0;
	FILE *list;

	list = fopen("/lab/tests", "re");
	if (!list) {
		say("# lab: reason no list of tests\n");
		power_off();
	}
	while (fgets(line, sizeof(line), list))
		plan++;
	rewind(list);
	say("1..%d\n", plan);
	while (fgets(line, sizeof(line), list))
		good &= run_test(line, ++n);
	fclose(list);
	running = "end";
	search_leaks();
	good &= unload_all();
	/* Of modules that are gone, too. There is none but with COVERAGE=. */
	nftw(GCOV, say_counts, 8, FTW_PHYS);
	if (search_log() + search_taint()) {
		say("# lab: reason the kernel log is not clean after the last test\n");
		good = false;
	}
	say("# lab: verdict %s\n", good ? "pass" : "fail");
}

/* Registers of a 16550 */
#define UART_TX		0
#define UART_LSR	5
#define UART_LSR_THRE	0x20

static ssize_t uart_write(void *cookie, const char *buf, size_t len)
{
	unsigned char *uart = cookie;
	size_t i;

	for (i = 0; i < len; i++) {
		while (!(__atomic_load_n(&uart[UART_LSR], __ATOMIC_SEQ_CST) &
			 UART_LSR_THRE))
			;
		__atomic_store_n(&uart[UART_TX], buf[i], __ATOMIC_SEQ_CST);
	}
	return len;
}

static void uart_channel(const char *address)
{
	unsigned long where = strtoul(address, NULL, 0);
	unsigned long offset = where % sysconf(_SC_PAGESIZE);
	char *page = MAP_FAILED;
	int fd;

	fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd >= 0)
		page = mmap(NULL, sysconf(_SC_PAGESIZE),
			    PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			    where - offset);
	if (page == MAP_FAILED) {
		fprintf(stderr, "init: no channel at %s: %s\n", address,
			strerror(errno));
		power_off();
	}
	channel = fopencookie(page + offset, "w",
			      (cookie_io_functions_t){ .write = uart_write });
	if (!channel)
		power_off();
}

static void raw_channel(const char *device)
{
	struct termios t;
	int fd;

	fd = open(device, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "init: no channel %s: %s\n", device,
			strerror(errno));
		power_off();
	}
	if (!tcgetattr(fd, &t)) {
		cfmakeraw(&t);
		cfsetspeed(&t, B115200);
		tcsetattr(fd, TCSANOW, &t);
	}
	channel = fdopen(fd, "w");
	if (!channel)
		power_off();
}

/*
 * The kernel takes a clocksource when it has measured its rate to the end. KVM keeps
 * the TSC's rate that it was loaded with where the processor does not say that this
 * is constant, and what was measured early may be too far from it for any vCPU.
 */
static void await_clocksource(const char *wanted)
{
	const struct timespec pace = { 0, 10 * 1000000L };
	char name[64], now[64];
	FILE *f;

	snprintf(name, sizeof(name), "%s\n", wanted);
	say("# lab: await clocksource %s\n", wanted);
	for (;;) {
		now[0] = '\0';
		f = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource",
			  "re");
		if (f) {
			if (!fgets(now, sizeof(now), f))
				now[0] = '\0';
			fclose(f);
		}
		if (!strcmp(now, name))
			return;
		nanosleep(&pace, NULL);
	}
}

int main(void)
{
	struct utsname uts;
	const char *device, *clocksource;

	mount_one("proc", "/proc", NULL);
	mount_one("sysfs", "/sys", NULL);
	mount_one("devtmpfs", "/dev", NULL);
	mount_one("devpts", "/dev/pts", "mode=620,ptmxmode=666");
	mount_one("tmpfs", "/dev/shm", NULL);
	mount_one("tmpfs", "/tmp", NULL);
	mount_one("debugfs", "/sys/kernel/debug", NULL);
	mount_one("tracefs", "/sys/kernel/tracing", NULL);
	setenv("PATH", "/bin", 1);
	setenv("HOME", "/tmp", 1);

	if (boot_option("lab.shell")) {
		puts("Modules: /lab/modules, tests: /lab/tests.d; 'poweroff -f' ends.");
		setsid();
		if (!fork())
			execl("/bin/busybox", "sh", "-c",
			      "/bin/busybox --install -s /bin; exec setsid -c sh",
			      (char *)NULL);
		while (wait(NULL) > 0)
			;
		power_off();
	}

	device = boot_option("lab.channel");
	if (device && !strncmp(device, "uart:", 5))
		uart_channel(device + 5);
	else
		raw_channel(device ? device : "/dev/ttyS1");
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (pipe2(child_ended, O_NONBLOCK | O_CLOEXEC))
		say("# lab: reason no pipe: %s\n", strerror(errno));
	signal(SIGCHLD, on_child);
	read_expected();
	uname(&uts);
	say("KTAP version 1\n# lab: kernel %s %s\n", uts.release, uts.machine);
	clocksource = boot_option("lab.clocksource");
	if (clocksource)
		await_clocksource(clocksource);
	if (kmsg < 0)
		say("# lab: reason no kernel log: %s\n", strerror(errno));
	else
		run_tests();
	fflush(channel);
	if (fileno(channel) >= 0)
		tcdrain(fileno(channel));
	/* The console is searched from here on, see "run". */
	mark_end();
	power_off();
}
