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
 *	INTERFACE TIMEOUT MODULES COMMAND...
 * TIMEOUT in seconds; MODULES separated by commas, in the order of loading,
 * "-" for none; a colon and parameters, separated by colons, behind a module
 * make it be loaded anew with these. COMMAND is a program with its arguments,
 * or "kunit FOLDER/SUITE": the suite ran when its module was loaded, its results
 * are read from debugfs.
 *
 * Kernel command line: lab.channel=DEVICE, or lab.channel=uart:ADDRESS for a
 * 16550 at that physical address that the kernel has no driver for; and
 * lab.shell for a shell on the console in place of the tests.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
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
 * Not faults: kmemleak's announcements of itself.
 */
static const char * const harmless[] = {
	"kmemleak: Kernel memory leak detector initialized",
	"kmemleak: Automatic memory scanning thread",
};

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

/* Read what the kernel logged since the last time; report each splat. */
static int search_log(void)
{
	char record[8192];
	int found = 0;
	ssize_t n;

	while ((n = read(kmsg, record, sizeof(record) - 1)) > 0 ||
	       (n < 0 && errno == EPIPE)) {
		char *text;
		size_t i;

		if (n < 0) {
			say("  # the kernel log was overrun, lines were lost\n");
			found++;
			continue;
		}
		record[n] = '\0';
		text = strchr(record, ';');
		if (!text)
			continue;
		text[strcspn(text, "\n")] = '\0';
		for (i = 0; i < ARRAY_SIZE(harmless); i++)
			if (strstr(text, harmless[i]))
				break;
		if (i < ARRAY_SIZE(harmless))
			continue;
		for (i = 0; i < ARRAY_SIZE(splats); i++)
			if (strstr(text, splats[i])) {
				say("  # kernel: %s\n", text + 1);
				found++;
				break;
			}
	}
	return found;
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

static int run_kunit(const char *suite)
{
	long long last = now_ms();
	bool failed = false;
	char line[4096];
	FILE *f;

	snprintf(line, sizeof(line), "/sys/kernel/debug/kunit/%s/results",
		 suite);
	f = fopen(line, "r");
	if (!f) {
		say("  # %s: %s\n", line, strerror(errno));
		return 1;
	}
	while (fgets(line, sizeof(line), f)) {
		failed |= !strncmp(line + strspn(line, " "), "not ok ", 7);
		forward(line, &last);
	}
	fclose(f);
	return failed;
}

/*
 * Run a program on a pseudo terminal and forward its lines. Returns its wait
 * status, or -1 when it ran out of time.
 */
static int run_program(char **argv, int timeout)
{
	long long start = now_ms(), last = start;
	long long end = start + timeout * 1000LL;
	int status = -1, master, slave;
	char buf[4096], line[4096];
	bool killed = false;
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
		struct pollfd pfd = { .fd = master, .events = POLLIN };
		long long left = end - now_ms();
		ssize_t n, i;

		if (left <= 0) {
			if (killed)
				break;
			kill(-pid, SIGKILL);
			killed = true;
			end = now_ms() + REAP_MS;
			continue;
		}
		if (poll(&pfd, 1, left) <= 0)
			continue;
		/* EIO once nobody holds the other end any more. */
		n = read(master, buf, sizeof(buf));
		if (n <= 0)
			break;
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

	/* A process that cannot be killed must not hold up the verdict. */
	kill(-pid, SIGKILL);
	for (;;) {
		pid_t p = waitpid(pid, &status, killed ? WNOHANG : 0);

		if (p == pid || (p < 0 && errno != EINTR) ||
		    (killed && now_ms() > end))
			break;
	}
	return killed ? -1 : status;
}

/* Run one line of the list. True if nothing is to be complained about. */
static bool run_test(char *line, int number)
{
	char *interface = strtok(line, "\n "), *word = strtok(NULL, "\n ");
	char *modules = strtok(NULL, "\n "), *argv[MAX_ARGS], *m, *save;
	int timeout, argc = 0, status = 0, found;
	const char *why = NULL, *name;
	long long start = now_ms();
	char reason[64];

	while (argc < MAX_ARGS - 1 && (argv[argc] = strtok(NULL, "\n ")))
		argc++;
	argv[argc] = NULL;
	if (!argc) {
		say("not ok %d bad line in the list of tests\n", number);
		return false;
	}
	timeout = atoi(word);
	name = strcmp(argv[0], "kunit") || argc < 2 ? argv[0] : argv[1];
	if (strrchr(name, '/'))
		name = strrchr(name, '/') + 1;

	say("# lab: test %s %s\n", interface, name);
	/* What was logged until now is not this test's. */
	found = search_log();
	for (m = strtok_r(modules, ",", &save); m && strcmp(modules, "-");
	     m = strtok_r(NULL, ",", &save))
		if (!load_module(m))
			why = "a module did not load";
	if (!why && !strcmp(argv[0], "kunit"))
		status = run_kunit(name) << 8;
	else if (!why)
		status = run_program(argv, timeout);
	found += search_log();
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
		return !found;
	} else if (!why && WEXITSTATUS(status)) {
		snprintf(reason, sizeof(reason), "exit status %d",
			 WEXITSTATUS(status));
		why = reason;
	}
	say("# lab: seconds %lld.%03lld\n", (now_ms() - start) / 1000,
	    (now_ms() - start) % 1000);
	if (why)
		say("# lab: reason %s\n", why);
	say("%sok %d %s\n", why || found ? "not " : "", number, name);
	return !why && !found;
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
	search_leaks();
	if (search_log()) {
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

int main(void)
{
	struct utsname uts;
	const char *device;

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
	uname(&uts);
	say("KTAP version 1\n# lab: kernel %s %s\n", uts.release, uts.machine);
	if (kmsg < 0)
		say("# lab: reason no kernel log: %s\n", strerror(errno));
	else
		run_tests();
	fflush(channel);
	if (fileno(channel) >= 0)
		tcdrain(fileno(channel));
	power_off();
}
