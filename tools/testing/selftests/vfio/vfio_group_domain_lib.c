// SPDX-License-Identifier: GPL-2.0-only
/* What the tests of vfio_group_domain() share */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "vfio_group_domain_lib.h"

/*
 * Modules.  Each comes after those that it needs.
 */
static const char * const modules[] = {
	"irqbypass",
	"vfio",
	"vfio_iommu_type1",
	"vfio_virqfd",
	"vfio_pci",
	"mdev",
	"vfio_mdev",
	"vfio_test_iommu",
	"vfio_test_mdev",
	"vfio_test_probe",
};

static const char *wanted;
static char found[4096];

/* File names may have a dash where the module's name has an underscore */
static int module_match(const char *path, const struct stat *st, int flag,
			struct FTW *ftw)
{
	const char *file = path + ftw->base, *name = wanted;

	(void)st;
	if (flag != FTW_F)
		return 0;
	while (*name && (*file == *name || (*file == '-' && *name == '_'))) {
		file++;
		name++;
	}
	if (*name || strcmp(file, ".ko"))
		return 0;
	snprintf(found, sizeof(found), "%s", path);
	return 1;
}

/*
 * VFIO_TEST_MODULES is a list of folders with colons; then come the folder
 * of this program and the usual ones.
 */
static const char *module_find(const char *name)
{
	static const char * const usual[] = { "/lab/modules", "/lib/modules" };
	const char *env = getenv("VFIO_TEST_MODULES");
	char self[4096], *list, *dir, *save;
	unsigned int i;
	ssize_t len;

	wanted = name;
	found[0] = '\0';

	if (env) {
		list = strdup(env);
		for (dir = strtok_r(list, ":", &save); dir && !found[0];
		     dir = strtok_r(NULL, ":", &save))
			nftw(dir, module_match, 8, FTW_PHYS);
		free(list);
	}

	len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (!found[0] && len > 0) {
		self[len] = '\0';
		/* In a program at the root of an initramfs that is everything */
		if (strcmp(dirname(self), "/"))
			nftw(self, module_match, 8, FTW_PHYS);
	}

	for (i = 0; i < ARRAY_SIZE(usual) && !found[0]; i++)
		nftw(usual[i], module_match, 8, FTW_PHYS);

	return found[0] ? found : NULL;
}

static bool module_is_loaded(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	return !access(path, F_OK);
}

int module_load(const char *name)
{
	const char *path;
	int fd, ret;

	if (module_is_loaded(name))
		return 0;

	path = module_find(name);
	if (!path) {
		printf("# module %s: no file, set VFIO_TEST_MODULES\n", name);
		return -ENOENT;
	}

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = syscall(SYS_finit_module, fd, "", 0) ? -errno : 0;
	close(fd);
	if (ret == -EEXIST)
		ret = 0;
	if (ret)
		printf("# module %s: %s\n", name, strerror(-ret));

	return ret;
}

int module_unload(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

static bool module_is_for_pci(const char *name)
{
	return !strcmp(name, "irqbypass") || !strcmp(name, "vfio_virqfd") ||
	       !strcmp(name, "vfio_pci");
}

int modules_load(bool pci)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(modules); i++) {
		if (!pci && module_is_for_pci(modules[i]))
			continue;
		ret = module_load(modules[i]);
		if (ret)
			return ret;
	}

	return 0;
}

/* Reference count, and the modules that hold some of it; 0: not a module */
static int module_users(const char *name, int *count, int *holders)
{
	char line[1024], mod[128], used[512];
	int ret = 0;
	FILE *f;
	char *p;

	f = fopen("/proc/modules", "re");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%127s %*u %d %511s", mod, count, used) != 3 ||
		    strcmp(mod, name))
			continue;
		*holders = 0;
		for (p = used; *p; p++)
			*holders += *p == ',';
		ret = 1;
		break;
	}
	fclose(f);

	return ret;
}

/*
 * When nobody uses VFIO, a module is held by the modules that link to it and
 * by nothing else.  Unload all that nobody else needs, which is what a lost
 * reference would prevent, and load them again as they were.
 */
int modules_unload_and_load(void)
{
	bool unloaded[ARRAY_SIZE(modules)] = {};
	int i, count, holders, error, ret = 0;

	for (i = ARRAY_SIZE(modules) - 1; i >= 0; i--) {
		const char *name = modules[i];
		bool ours = !strncmp(name, "vfio_test_", 10);

		if (module_users(name, &count, &holders) <= 0)
			continue;
		if (count != holders) {
			printf("# module %s: %d references, %d of modules\n",
			       name, count, holders);
			ret = -EBUSY;
			continue;
		}
		if (holders || !module_find(name)) {
			if (ours) {
				printf("# module %s: cannot be tried\n", name);
				ret = -EBUSY;
			}
			continue;
		}
		error = module_unload(name);
		if (error) {
			ret = error;
			printf("# module %s: %s\n", name, strerror(-error));
			continue;
		}
		unloaded[i] = true;
	}

	for (i = 0; i < (int)ARRAY_SIZE(modules); i++) {
		if (unloaded[i] && module_load(modules[i]))
			ret = -EIO;
	}

	return ret;
}

/*
 * Files
 */

int file_write(const char *path, const char *text)
{
	ssize_t len = strlen(text);
	int fd, ret = 0;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, text, len) != len)
		ret = errno ? -errno : -EIO;
	close(fd);

	return ret;
}

int link_base(const char *path, char *base, size_t size)
{
	char target[4096];
	ssize_t len;

	len = readlink(path, target, sizeof(target) - 1);
	if (len < 0)
		return -errno;
	target[len] = '\0';
	snprintf(base, size, "%s", basename(target));

	return 0;
}

/* Returns the value that it had */
int panic_on_oops_set(int value)
{
	static const char path[] = "/proc/sys/kernel/panic_on_oops";
	char text[16] = "";
	int fd, old;

	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (read(fd, text, sizeof(text) - 1) <= 0) {
		close(fd);
		return -EIO;
	}
	old = atoi(text);
	snprintf(text, sizeof(text), "%d\n", value);
	if (pwrite(fd, text, strlen(text), 0) < 0)
		old = -errno;
	close(fd);

	return old;
}

/*
 * PCI devices, by their addresses
 */

#define PCI	"/sys/bus/pci/"

static void pci_path(char *path, size_t size, const char *dev, const char *file)
{
	snprintf(path, size, PCI "devices/%.63s/%.63s", dev, file);
}

int pci_file_write(const char *dev, const char *file, const char *text)
{
	char path[512];

	pci_path(path, sizeof(path), dev, file);

	return file_write(path, text);
}

static bool pci_file_is(const char *dev, const char *file, const char *value)
{
	char path[512], text[32] = "";
	int fd;

	pci_path(path, sizeof(path), dev, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(fd);

	return !strncmp(text, value, strlen(value));
}

int pci_group(const char *dev)
{
	char path[512], base[64];
	int ret;

	pci_path(path, sizeof(path), dev, "iommu_group");
	ret = link_base(path, base, sizeof(base));

	return ret ? ret : atoi(base);
}

int pci_bind(const char *dev, const char *driver)
{
	char path[512];
	int ret;

	pci_path(path, sizeof(path), dev, "driver/unbind");
	if (!access(path, F_OK))
		file_write(path, dev);
	ret = pci_file_write(dev, "driver_override", driver);
	if (ret)
		return ret;

	return file_write(PCI "drivers_probe", dev);
}

static int edu_compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

/*
 * What can be reset is asked when a device is found on its bus, so the first one
 * of several has the file for it as well.
 */
static enum edu_kind edu_kind(const struct pci_name *all, int n, int nr)
{
	char path[512];
	int i;

	for (i = 0; i < n; i++) {
		if (i != nr && pci_group(all[i].s) == pci_group(all[nr].s))
			return EDU_SHARES_GROUP;
	}
	pci_path(path, sizeof(path), all[nr].s, "reset");

	return access(path, F_OK) ? EDU_ALONE : EDU_CAN_BE_RESET;
}

/* Those behind an IOMMU, in the order of their addresses; how many there are */
int edu_find(enum edu_kind kind, struct pci_name *names, int max)
{
	DIR *dir = opendir(PCI "devices");
	int n = 0, found = 0, i;
	struct pci_name all[16];
	struct dirent *e;

	while (dir && n < (int)ARRAY_SIZE(all) && (e = readdir(dir))) {
		if (pci_file_is(e->d_name, "vendor", "0x1234") &&
		    pci_file_is(e->d_name, "device", "0x11e8") &&
		    pci_group(e->d_name) >= 0)
			snprintf(all[n++].s, sizeof(all[0].s), "%.63s",
				 e->d_name);
	}
	if (dir)
		closedir(dir);
	qsort(all, n, sizeof(all[0]), edu_compare);

	for (i = 0; i < n && found < max; i++) {
		if (edu_kind(all, n, i) == kind)
			names[found++] = all[i];
	}

	return found;
}

/* Those below 0x80 have 32 bits, the others 64 */
void edu_write(void *bar, size_t reg, __u64 value)
{
	if (reg < EDU_DMA_SOURCE)
		__atomic_store_n((__u32 *)(bar + reg), value, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n((__u64 *)(bar + reg), value, __ATOMIC_SEQ_CST);
}

__u64 edu_read(void *bar, size_t reg)
{
	if (reg < EDU_DMA_SOURCE)
		return __atomic_load_n((__u32 *)(bar + reg), __ATOMIC_SEQ_CST);

	return __atomic_load_n((__u64 *)(bar + reg), __ATOMIC_SEQ_CST);
}

void edu_dma_start(void *bar, __u64 from, __u64 to, __u64 size, __u64 command)
{
	edu_write(bar, EDU_DMA_SOURCE, from);
	edu_write(bar, EDU_DMA_DESTINATION, to);
	edu_write(bar, EDU_DMA_COUNT, size);
	edu_write(bar, EDU_DMA_COMMAND, command | EDU_DMA_START);
}

void edu_dma(void *bar, __u64 from, __u64 to, __u64 size, __u64 command)
{
	edu_dma_start(bar, from, to, size, command);
	/* The case has a time limit */
	while (edu_read(bar, EDU_DMA_COMMAND) & EDU_DMA_START)
		sched_yield();
}

void close_all_but(int keep)
{
	int fd;

	for (fd = 3; fd < 1024; fd++) {
		if (fd != keep)
			close(fd);
	}
}

void *page_alloc(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* R running, S sleeping, D sleeping where no signal reaches it; 0 when gone */
char thread_state(pid_t tid)
{
	char path[64], text[256], *p;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return 0;
	text[len] = '\0';
	p = strrchr(text, ')');

	return p && p[1] ? p[2] : 0;
}

/* How often it went to sleep, or -1 */
long thread_switches(pid_t tid)
{
	static const char key[] = "\nvoluntary_ctxt_switches:";
	char path[64], text[4096], *p;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return -1;
	text[len] = '\0';
	p = strstr(text, key);

	return p ? atol(p + strlen(key)) : -1;
}

/*
 * The software IOMMU and its devices
 */

static int call(int fd, unsigned long cmd, void *arg)
{
	int ret = ioctl(fd, cmd, arg);

	return ret < 0 ? -errno : ret;
}

static int file_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int iommu_open(void)
{
	return file_open("/dev/vfio-test-iommu");
}

int device_add(int iommu, unsigned int unit, unsigned int flags)
{
	struct vfio_test_add_dev add = { .unit = unit, .flags = flags };
	int ret = call(iommu, VFIO_TEST_ADD_DEV, &add);

	return ret < 0 ? ret : (int)add.id;
}

int device_remove(int iommu, unsigned int id)
{
	__u32 arg = id;

	return call(iommu, VFIO_TEST_DEL_DEV, &arg);
}

int devices_remove_all(int iommu)
{
	DIR *dir = opendir("/sys/bus/" VFIO_TEST_BUS_NAME "/devices");
	struct dirent *e;
	unsigned int id;
	int ret = 0;

	if (!dir)
		return -errno;
	while (!ret && (e = readdir(dir))) {
		if (sscanf(e->d_name, "vtest%u", &id) == 1)
			ret = device_remove(iommu, id);
	}
	closedir(dir);

	return ret;
}

int fault_inject(int iommu, unsigned int fault, int error)
{
	struct vfio_test_inject inject = { .fault = fault, .error = error };

	return call(iommu, VFIO_TEST_INJECT, &inject);
}

int iommu_stats(int iommu, struct vfio_test_stats *stats)
{
	return call(iommu, VFIO_TEST_STATS, stats);
}

/* Number of the domain that translates DMA of device @id with @pasid, or 0 */
int iommu_domain(int iommu, unsigned int id, unsigned int pasid)
{
	struct vfio_test_translate t = { .id = id, .pasid = pasid };
	int ret = call(iommu, VFIO_TEST_TRANSLATE, &t);

	return ret < 0 ? ret : (int)t.domain;
}

int iommu_translate(int iommu, unsigned int id, unsigned int pasid,
		    __u64 iova, __u64 *phys)
{
	struct vfio_test_translate t = {
		.id = id,
		.pasid = pasid,
		.iova = iova,
	};
	int ret = call(iommu, VFIO_TEST_TRANSLATE, &t);

	*phys = t.phys;
	return ret;
}

/*
 * Mediated devices
 */

int mdev_create(unsigned int parent, const char *type, unsigned int nr,
		struct mdev *m)
{
	char path[256], base[64];
	int ret;

	m->parent = parent;
	snprintf(m->name, sizeof(m->name),
		 "76676400-0000-4000-8000-%012x", nr);
	snprintf(path, sizeof(path), "/sys/bus/" VFIO_TEST_BUS_NAME
		 "/devices/vtest%u/mdev_supported_types/%s/create", parent, type);
	ret = file_write(path, m->name);
	if (ret)
		return ret;

	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/iommu_group",
		 m->name);
	ret = link_base(path, base, sizeof(base));
	if (ret)
		return ret;
	m->group = atoi(base);

	return 0;
}

int mdev_remove(const struct mdev *m)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/remove", m->name);

	return file_write(path, "1");
}

/* The file goes away when somebody's write to it has been accepted */
bool mdev_removal_started(const struct mdev *m)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/remove", m->name);

	return access(path, F_OK);
}

int mdev_info(int device, struct vfio_test_mdev_info *info)
{
	return call(device, VFIO_TEST_MDEV_INFO, info);
}

static int mdev_move(int device, unsigned long cmd, __u64 iova, void *data,
		     size_t size, bool write)
{
	struct vfio_test_mdev_dma dma = {
		.iova = iova,
		.size = size,
		.write = write,
	};
	int ret;

	if (size > sizeof(dma.data))
		return -E2BIG;
	if (write)
		memcpy(dma.data, data, size);
	ret = call(device, cmd, &dma);
	if (!ret && !write)
		memcpy(data, dma.data, size);

	return ret;
}

int mdev_dma(int device, __u64 iova, void *data, size_t size, bool write)
{
	return mdev_move(device, VFIO_TEST_MDEV_DMA, iova, data, size, write);
}

/* By the driver, with vfio_dma_rw() */
int mdev_rw(int device, __u64 iova, void *data, size_t size, bool write)
{
	return mdev_move(device, VFIO_TEST_MDEV_RW, iova, data, size, write);
}

/*
 * VFIO as userspace uses it
 */

int container_open(void)
{
	return file_open("/dev/vfio/vfio");
}

int container_set_iommu(int container, unsigned long type)
{
	return call(container, VFIO_SET_IOMMU, (void *)type);
}

int container_map(int container, void *vaddr, __u64 iova, size_t size)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)vaddr,
		.iova = iova,
		.size = size,
	};

	return call(container, VFIO_IOMMU_MAP_DMA, &map);
}

int container_unmap(int container, __u64 iova, size_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = iova,
		.size = size,
	};

	return call(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
}

int group_open(int group)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/vfio/%d", group);

	return file_open(path);
}

int group_set_container(int group, int container)
{
	return call(group, VFIO_GROUP_SET_CONTAINER, &container);
}

int group_device(int group, const char *name)
{
	return call(group, VFIO_GROUP_GET_DEVICE_FD, (void *)name);
}

/* A container of its own for the group */
int user_open(struct user *u, int group, const char *name)
{
	int ret;

	u->group = -1;
	u->device = -1;
	u->container = container_open();
	if (u->container < 0)
		return u->container;

	u->group = group_open(group);
	ret = u->group;
	if (ret >= 0)
		ret = group_set_container(u->group, u->container);
	if (ret >= 0)
		ret = container_set_iommu(u->container, VFIO_TYPE1v2_IOMMU);
	if (ret >= 0 && name) {
		u->device = group_device(u->group, name);
		ret = u->device;
	}
	if (ret < 0) {
		user_close(u);
		return ret;
	}

	return 0;
}

/* The group joins a container that others use; user_close() leaves it open */
int user_join(struct user *u, int container, int group, const char *name)
{
	int ret;

	u->container = -1;
	u->device = -1;
	u->group = group_open(group);
	ret = u->group;
	if (ret >= 0)
		ret = group_set_container(u->group, container);
	if (ret >= 0 && name) {
		u->device = group_device(u->group, name);
		ret = u->device;
	}
	if (ret < 0) {
		user_close(u);
		return ret;
	}

	return 0;
}

void user_close(struct user *u)
{
	if (u->device >= 0)
		close(u->device);
	if (u->group >= 0)
		close(u->group);
	if (u->container >= 0)
		close(u->container);
	u->device = -1;
	u->group = -1;
	u->container = -1;
}

/*
 * The module that calls vfio_group_domain()
 */

int probe_open(void)
{
	return file_open("/dev/vfio-test-probe");
}

int probe_hold(int probe, unsigned int bus, const char *name)
{
	struct vfio_test_hold hold = { .bus = bus };

	snprintf(hold.name, sizeof(hold.name), "%s", name);

	return call(probe, VFIO_TEST_HOLD, &hold);
}

int probe_release(int probe)
{
	return call(probe, VFIO_TEST_RELEASE, NULL);
}

int probe_domain(int probe, struct vfio_test_domain *answer)
{
	return call(probe, VFIO_TEST_DOMAIN, answer);
}

int probe_domain_null(int probe, struct vfio_test_domain *answer)
{
	return call(probe, VFIO_TEST_DOMAIN_NULL, answer);
}

int probe_domain_error(int probe, struct vfio_test_domain *answer)
{
	return call(probe, VFIO_TEST_DOMAIN_ERROR, answer);
}

int probe_calls(int probe, struct vfio_test_calls *calls)
{
	return call(probe, VFIO_TEST_CALLS, calls);
}

int probe_lookup(int probe, __u64 iova, __u64 *phys)
{
	struct vfio_test_lookup lookup = { .iova = iova };
	int ret = call(probe, VFIO_TEST_LOOKUP, &lookup);

	*phys = lookup.phys;
	return ret;
}

int probe_phys(int probe, const void *vaddr, __u64 *phys)
{
	struct vfio_test_phys arg = { .vaddr = (uintptr_t)vaddr };
	int ret = call(probe, VFIO_TEST_PHYS, &arg);

	*phys = arg.phys;
	return ret;
}

int probe_bench(int probe, struct vfio_test_bench *bench)
{
	return call(probe, VFIO_TEST_BENCH, bench);
}
