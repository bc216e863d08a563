/*
 * mesh-sandbox: sets up the walls around one sealed build, runs it, and reports how it ended.
 *
 * Its executor writes a specification to descriptor 3 (a socket) and reads the report from it. The
 * specification is a list of NUL-terminated strings, a key and its values each time:
 *
 *   uid N, gid N          the identity outside of the build's user namespace; inside it is 1000
 *   parent PID            the executor: the build does not outlive it
 *   root DIR              an empty directory of the host to mount the new root on
 *   network               keep the host's network
 *   layer DIR             a directory to see as the root, the uppermost first (else the root is empty)
 *   changes DIR           with layers: an empty directory for what the build changes in them
 *   terminal              a person sits at it: it stays in their session, and ^C is for what runs in it
 *   linux32               tell the build that the kernel has 32 bits
 *   emulator PROGRAM      a static interpreter of the host's, with
 *   binary FORMAT         what it interprets: `offset:magic:mask` as binfmt_misc takes it, and
 *   flags FLAGS           how it is called, as binfmt_misc takes them
 *   cwd PATH
 *   jobserver PATH        a FIFO in the new root, to be open in the build at JOBSERVER_FDS
 *   dir HOST PATH         read-only directory        file HOST PATH   read-only file
 *   default HOST PATH     like file, unless a layer has something there
 *   rw HOST PATH          writable directory         dev HOST PATH    device
 *   link TARGET PATH      symbolic link (made after all mounts, so that no mount goes through one)
 *   arg STRING, env NAME=VALUE
 *   end
 *
 * The report is lines: `failed STEP`, `builder MESSAGE` (could not be executed), `exited CODE`,
 * `signalled NUMBER`, and at last `usage CPU_MS RSS_BYTES`.
 *
 * Three processes: the monitor (host's pid namespace) waits and reports usage; the init is process 1 of
 * the build's pid namespace, makes the mounts, gives up all rights, and reaps; the build. When the
 * executor dies the kernel kills the monitor, then the init, and with it everything in the namespace.
 *
 * As root, all namespaces but the user namespace belong to the host's root, so the build owns none of
 * its walls. Otherwise they belong to the build's user namespace, in which it has no capability.
 *
 * Needs Linux 5.12 (mount_setattr) for its recursive read-only mounts.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* The newer system calls have one number on all architectures; older headers lack them. */
#define NR_OPEN_TREE 428
#define NR_MOVE_MOUNT 429
#define NR_CLOSE_RANGE 436
#define NR_MOUNT_SETATTR 442
#define TREE_CLONE 1u
#define TREE_CLOEXEC ((unsigned)O_CLOEXEC)
#define TREE_RECURSIVE 0x8000u
#define TREE_NOFOLLOW 0x100u
#define EMPTY_PATH 0x1000u
#define MOVE_FROM_EMPTY_PATH 4u
#define CLOSE_ON_EXEC 4u
#define ATTR_RDONLY 1u
#define ATTR_NOSUID 2u
#define ATTR_NODEV 4u
#define ATTR_NOEXEC 8u
#define ATTR_IDMAP 0x00100000u
struct attributes {
	uint64_t set, clear, propagation, userns;
};

#define INNER_ID 1000
#define STATUS_FD 3
#define SPEC_BYTES_MAX (256u * 1024 * 1024)
#define PATH_BYTES_MAX 4096u
#define LAYERS_MAX 8
#define OPEN_FILES_SOFT 1024u
/* Far from those that scripts use themselves; src/build/jobs/build-jobs.ts tells tools of the same. */
static const int JOBSERVER_FDS[] = {198, 199};

struct spec {
	char *bytes;
	size_t size;
	uid_t uid;
	gid_t gid;
	pid_t parent;
	const char *root, *cwd, *jobserver;
	int network, linux32, terminal;
	const char *layers[LAYERS_MAX], *changes, *emulator, *binary, *flags;
	int layer_count;
	int id_map; /* as root: the user namespace through which layers are seen */
	char **argv, **env;
};

static void report(const char *kind, const char *format, va_list values)
{
	char text[8192];
	int used = snprintf(text, sizeof text, "%s ", kind);
	int more = vsnprintf(text + used, sizeof text - (size_t)used - 1, format, values);
	size_t length = strnlen(text, (size_t)(used + (more < 0 ? 0 : more)));
	if (length > sizeof text - 2) length = sizeof text - 2;
	for (size_t i = 0; i < length; i++) /* one line, whatever is in a path */
		if ((unsigned char)text[i] < ' ') text[i] = '?';
	text[length++] = '\n';
	for (size_t sent = 0; sent < length;) {
		ssize_t count = send(STATUS_FD, text + sent, length - sent, MSG_NOSIGNAL);
		if (count < 0 && errno == EINTR) continue;
		if (count < 0) return;
		sent += (size_t)count;
	}
}

__attribute__((format(printf, 2, 3))) static void tell(const char *kind, const char *format, ...)
{
	va_list values;
	va_start(values, format);
	report(kind, format, values);
	va_end(values);
}

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	va_list values;
	va_start(values, format);
	report("failed", format, values);
	va_end(values);
	_exit(125);
}

#define check(call, ...) do { if ((call) < 0) fail_errno(__VA_ARGS__); } while (0)
__attribute__((noreturn, format(printf, 1, 2))) static void fail_errno(const char *format, ...)
{
	int number = errno;
	char text[6000];
	va_list values;
	va_start(values, format);
	vsnprintf(text, sizeof text, format, values);
	va_end(values);
	fail("%s: %s", text, strerror(number));
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	check(fd, "open %s", path);
	check(write(fd, text, strlen(text)), "write \"%s\" to %s", text, path);
	close(fd);
}

/* ---- the specification ---- */

static const char *next_string(const struct spec *spec, size_t *at)
{
	if (*at >= spec->size) fail("the specification has no end");
	const char *text = spec->bytes + *at;
	*at += strlen(text) + 1; /* read_spec() made sure that the last byte is NUL */
	return text;
}

static unsigned number_of(const char *text)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (errno != 0 || end == text || *end != 0 || *text < '0' || *text > '9' || value >= UINT32_MAX)
		fail("\"%s\" in the specification is not a number", text);
	return (unsigned)value;
}

/* Absolute, without empty, `.` and `..` segments, and short enough to be opened. */
static const char *path_of(const char *path)
{
	size_t length = strlen(path);
	int ok = length > 1 && length < PATH_BYTES_MAX && path[0] == '/' && path[length - 1] != '/';
	for (const char *at = path; ok && at != NULL; at = strchr(at + 1, '/')) {
		size_t segment = strcspn(at + 1, "/");
		ok = segment > 0 && !(segment == 1 && at[1] == '.') && !(segment == 2 && at[1] == '.' && at[2] == '.');
	}
	if (!ok) fail("\"%s\" in the specification is not a canonical path", path);
	return path;
}

static int is_mount(const char *key)
{
	return !strcmp(key, "dir") || !strcmp(key, "file") || !strcmp(key, "default") || !strcmp(key, "rw") || !strcmp(key, "dev") || !strcmp(key, "link");
}

/* Keys without a value. */
static int is_flag(const char *key)
{
	return !strcmp(key, "network") || !strcmp(key, "linux32") || !strcmp(key, "terminal");
}

static void add_layer(struct spec *spec, const char *path)
{
	if (spec->layer_count == LAYERS_MAX) fail("the specification has more than %d layers", LAYERS_MAX);
	spec->layers[spec->layer_count++] = path_of(path);
}

/* Reads until the executor closes its side for writing. */
static void read_spec(struct spec *spec)
{
	size_t room = 0;
	for (;;) {
		if (spec->size == room) {
			room = room == 0 ? 64 * 1024 : room * 2;
			if (room > SPEC_BYTES_MAX) fail("the specification has more than %u bytes", SPEC_BYTES_MAX);
			spec->bytes = realloc(spec->bytes, room);
			if (spec->bytes == NULL) fail("no memory for the specification");
		}
		ssize_t count = read(STATUS_FD, spec->bytes + spec->size, room - spec->size);
		if (count < 0 && errno == EINTR) continue;
		check(count, "read the specification");
		if (count == 0) break;
		spec->size += (size_t)count;
	}
	if (spec->size == 0 || spec->bytes[spec->size - 1] != 0) fail("the specification ended early");
}

static void parse_spec(struct spec *spec)
{
	size_t strings = 0, args = 0, envs = 0;
	for (size_t i = 0; i < spec->size; i++) strings += spec->bytes[i] == 0;
	spec->argv = calloc(strings + 1, sizeof *spec->argv);
	spec->env = calloc(strings + 1, sizeof *spec->env);
	if (spec->argv == NULL || spec->env == NULL) fail("no memory for the specification");
	int has_uid = 0, has_gid = 0;
	for (size_t at = 0;;) {
		const char *key = next_string(spec, &at);
		if (!strcmp(key, "end")) break;
		if (is_flag(key)) {
			if (!strcmp(key, "network")) spec->network = 1;
			else if (!strcmp(key, "linux32")) spec->linux32 = 1;
			else spec->terminal = 1;
			continue;
		}
		const char *value = next_string(spec, &at);
		if (!strcmp(key, "uid")) has_uid = 1, spec->uid = number_of(value);
		else if (!strcmp(key, "gid")) has_gid = 1, spec->gid = number_of(value);
		else if (!strcmp(key, "parent")) spec->parent = (pid_t)number_of(value);
		else if (!strcmp(key, "root")) spec->root = path_of(value);
		else if (!strcmp(key, "cwd")) spec->cwd = path_of(value);
		else if (!strcmp(key, "jobserver")) spec->jobserver = path_of(value);
		else if (!strcmp(key, "layer")) add_layer(spec, value);
		else if (!strcmp(key, "changes")) spec->changes = path_of(value);
		else if (!strcmp(key, "emulator")) spec->emulator = path_of(value);
		else if (!strcmp(key, "binary")) spec->binary = value;
		else if (!strcmp(key, "flags")) spec->flags = value;
		else if (!strcmp(key, "arg")) spec->argv[args++] = (char *)value;
		else if (!strcmp(key, "env")) spec->env[envs++] = (char *)value;
		else if (is_mount(key)) path_of(next_string(spec, &at));
		else fail("unknown key \"%s\" in the specification", key);
	}
	if (!has_uid || !has_gid || spec->parent == 0 || spec->root == NULL || spec->cwd == NULL || args == 0)
		fail("the specification is not complete");
	if ((spec->layer_count > 0) != (spec->changes != NULL) || (spec->emulator == NULL) != (spec->binary == NULL) || (spec->emulator == NULL) != (spec->flags == NULL))
		fail("the specification has only some of the words that belong together");
}

/* ---- the new root ---- */

/*
 * Opens the directory that holds `path` below `root`, making what is missing; `*name` becomes the last
 * segment. Follows no link. Keeps the last one open: sorted inputs mostly share theirs.
 */
static int open_parent(int root, const char *path, const char **name)
{
	static char last[PATH_BYTES_MAX];
	static int last_fd = -1;
	size_t length = (size_t)(strrchr(path, '/') - path);
	*name = path + length + 1;
	if (last_fd >= 0 && strlen(last) == length && memcmp(last, path, length) == 0) return last_fd;
	int at = fcntl(root, F_DUPFD_CLOEXEC, 10);
	check(at, "duplicate a descriptor");
	memcpy(last, path, length);
	last[length] = 0;
	char walk[PATH_BYTES_MAX], *rest;
	strcpy(walk, last);
	for (char *segment = strtok_r(walk, "/", &rest); segment != NULL; segment = strtok_r(NULL, "/", &rest)) {
		if (mkdirat(at, segment, 0755) < 0 && errno != EEXIST) fail_errno("make the directory of %s", path);
		int next = openat(at, segment, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		check(next, "open the directory of %s", path);
		close(at);
		at = next;
	}
	if (last_fd >= 0) close(last_fd);
	return last_fd = at;
}

/* A layer may have anything where something is to be mounted: what is of another kind makes room. */
static int make_room(int parent, const char *name, const char *path, mode_t type)
{
	struct stat stat;
	if (fstatat(parent, name, &stat, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT) fail_errno("stat %s", path);
		return 0;
	}
	if ((stat.st_mode & S_IFMT) == type) return 1;
	if (type != S_IFDIR && S_ISREG(stat.st_mode)) return 1;
	if (S_ISDIR(stat.st_mode)) fail("the image has a directory at %s, where something else is needed", path);
	check(unlinkat(parent, name, 0), "make room at %s", path);
	return 0;
}

static void attach(int root, const char *host, const char *path, mode_t type, uint64_t flags)
{
	int tree = (int)syscall(NR_OPEN_TREE, AT_FDCWD, host, TREE_CLONE | TREE_CLOEXEC | TREE_RECURSIVE | TREE_NOFOLLOW);
	check(tree, "open_tree %s", host);
	struct stat stat;
	check(fstat(tree, &stat), "stat %s", host);
	if ((stat.st_mode & S_IFMT) != type) fail("%s has file type %o, expected %o", host, stat.st_mode & S_IFMT, type);
	struct attributes attributes = {.set = flags, .propagation = MS_PRIVATE};
	check(syscall(NR_MOUNT_SETATTR, tree, "", EMPTY_PATH | TREE_RECURSIVE, &attributes, sizeof attributes),
		"mount_setattr %s (needs Linux 5.12)", host);
	const char *name;
	int parent = open_parent(root, path, &name);
	if (make_room(parent, name, path, type)) {
		/* It is mounted upon. */
	} else if (type == S_IFDIR) {
		if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST) fail_errno("mkdir %s", path);
	} else {
		int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
		if (fd < 0 && errno != EEXIST) fail_errno("make %s", path);
		if (fd >= 0) close(fd);
	}
	check(syscall(NR_MOVE_MOUNT, tree, "", parent, name, MOVE_FROM_EMPTY_PATH), "mount %s at %s", host, path);
	close(tree);
}

static void attach_default(int root, const char *host, const char *path)
{
	const char *name;
	struct stat stat;
	int parent = open_parent(root, path, &name);
	if (fstatat(parent, name, &stat, AT_SYMLINK_NOFOLLOW) < 0) attach(root, host, path, S_IFREG, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV);
}

/* Calls for each mount or link of the specification, links in a second round. */
static void place_all(const struct spec *spec, int root, int links)
{
	for (size_t at = 0;;) {
		const char *key = next_string(spec, &at);
		if (!strcmp(key, "end")) return;
		if (is_flag(key)) continue;
		const char *host = next_string(spec, &at);
		if (!is_mount(key)) continue;
		const char *path = next_string(spec, &at);
		if (!strcmp(key, "link")) {
			if (!links) continue;
			const char *name;
			int parent = open_parent(root, path, &name);
			if (make_room(parent, name, path, S_IFLNK)) check(unlinkat(parent, name, 0), "make room at %s", path);
			check(symlinkat(host, parent, name), "link %s", path);
		} else if (!links) {
			if (!strcmp(key, "dir")) attach(root, host, path, S_IFDIR, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV);
			else if (!strcmp(key, "file")) attach(root, host, path, S_IFREG, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV);
			else if (!strcmp(key, "default")) attach_default(root, host, path);
			else if (!strcmp(key, "rw")) attach(root, host, path, S_IFDIR, ATTR_NOSUID | ATTR_NODEV);
			else attach(root, host, path, S_IFCHR, ATTR_NOSUID | ATTR_NOEXEC);
		}
	}
}

/*
 * A user namespace in which the files of whom we are belong to the build: as root, layers are seen through
 * it, for their files are root's, and the build is somebody else.
 */
static int open_id_map(const struct spec *spec)
{
	int go[2];
	char path[64], map[64];
	check(pipe2(go, O_CLOEXEC), "make a pipe");
	pid_t pid = fork();
	check(pid, "fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		if (unshare(CLONE_NEWUSER) < 0 || write(go[1], "", 1) != 1) _exit(1);
		for (;;) pause();
	}
	close(go[1]);
	char ready;
	if (read(go[0], &ready, 1) != 1) fail("a user namespace to map the owner of an image cannot be made");
	close(go[0]);
	snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
	snprintf(map, sizeof map, "%u %u 1", geteuid(), spec->uid);
	write_file(path, map);
	snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
	snprintf(map, sizeof map, "%u %u 1", getegid(), spec->gid);
	write_file(path, map);
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	check(fd, "open %s", path);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return fd;
}

/*
 * Puts the layers on top of each other at `merged` below the working directory. What the build changes goes
 * to `changes` and nowhere else; all that is in a layer is the build's own.
 */
static void mount_layers(const struct spec *spec)
{
	char options[256] = "lowerdir=";
	struct attributes attributes = {.set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, .propagation = MS_PRIVATE};
	int as_root = spec->id_map >= 0;
	if (as_root) {
		attributes.set |= ATTR_IDMAP;
		attributes.userns = (uint64_t)spec->id_map;
	}
	for (int i = 0; i < spec->layer_count; i++) {
		char name[8];
		snprintf(name, sizeof name, "%d", i);
		check(mkdir(name, 0755), "mkdir for a layer");
		int tree = (int)syscall(NR_OPEN_TREE, AT_FDCWD, spec->layers[i], TREE_CLONE | TREE_CLOEXEC | TREE_NOFOLLOW);
		check(tree, "open_tree %s", spec->layers[i]);
		check(syscall(NR_MOUNT_SETATTR, tree, "", EMPTY_PATH, &attributes, sizeof attributes), "mount_setattr %s (an image needs Linux 5.19 and a file system that maps owners)", spec->layers[i]);
		check(syscall(NR_MOVE_MOUNT, tree, "", AT_FDCWD, name, MOVE_FROM_EMPTY_PATH), "mount the layer %s", spec->layers[i]);
		close(tree);
		if (i > 0) strcat(options, ":");
		strcat(options, name);
	}
	check(mkdir("changes", 0755), "mkdir for the changes");
	check(mount(spec->changes, "changes", NULL, MS_BIND, NULL), "mount %s", spec->changes);
	for (int i = 0; i < 2; i++) {
		const char *name = i == 0 ? "changes/upper" : "changes/work";
		check(mkdir(name, 0755), "mkdir %s/%s", spec->changes, name + 8);
		if (as_root) check(chown(name, spec->uid, spec->gid), "chown %s", name);
	}
	strcat(options, ",upperdir=changes/upper,workdir=changes/work");
	if (!as_root) strcat(options, ",userxattr");
	check(mkdir("merged", 0755), "mkdir for the image");
	check(mount("image", "merged", "overlay", MS_NOSUID | MS_NODEV, options), "mount the image (overlay, %s)", options);
	check(chdir("merged"), "chdir to the image");
}

/* `/dev`, `/proc` and `/dev/shm`, where an image may have them. */
static void make_directory(const char *path, mode_t mode)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST) fail_errno("make /%s", path);
}

static void make_root(const struct spec *spec)
{
	check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make the mounts private");
	check(mount("mesh", spec->root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64m"), "mount a tmpfs at %s", spec->root);
	check(chdir(spec->root), "chdir %s", spec->root);
	if (spec->layer_count > 0) mount_layers(spec);
	int root = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	check(root, "open %s", spec->root);
	umask(0);
	place_all(spec, root, 0);
	make_directory("proc", 0555);
	make_directory("dev", 0755);
	make_directory("dev/shm", 0755);
	/* Before the old root goes: the kernel allows a new proc only where one is in full view already. */
	check(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount /proc");
	check(mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"), "mount /dev/shm");
	place_all(spec, root, 1);
	check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	check(umount2(".", MNT_DETACH), "detach the old root");
	check(chdir("/"), "chdir /");
	if (spec->layer_count > 0) return; /* what is written there goes with the build */
	struct attributes attributes = {.set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV};
	check(syscall(NR_MOUNT_SETATTR, AT_FDCWD, "/", 0u, &attributes, sizeof attributes), "make the root read-only");
}

static void loopback_up(void)
{
	struct ifreq request = {0};
	strcpy(request.ifr_name, "lo");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	check(fd, "open a socket");
	request.ifr_flags = IFF_UP;
	check(ioctl(fd, SIOCSIFFLAGS, &request), "bring the loopback up");
	close(fd);
}

/* ---- rights ---- */

static void enter_user_namespace(unsigned inner, uid_t uid, gid_t gid, int flags)
{
	char map[64];
	check(unshare(CLONE_NEWUSER | flags), "unshare a user namespace");
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof map, "%u %u 1", inner, uid);
	write_file("/proc/self/uid_map", map);
	snprintf(map, sizeof map, "%u %u 1", inner, gid);
	write_file("/proc/self/gid_map", map);
}

/*
 * Lets the kernel run the build's foreign programs by the emulator: for this user namespace alone, with a
 * file that is opened now, so that the build does not see it (Linux 6.7).
 */
static void register_emulator(const struct spec *spec, int emulator)
{
	char line[1024];
	int length = snprintf(line, sizeof line, ":mesh:M:%s:/proc/self/fd/%d:%s", spec->binary, emulator, spec->flags);
	if (length < 0 || (size_t)length >= sizeof line) fail("the format of foreign programs is too long");
	check(mount("binfmt_misc", "/proc/sys/fs/binfmt_misc", "binfmt_misc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL),
		"mount binfmt_misc in a user namespace (needs Linux 6.7)");
	write_file("/proc/sys/fs/binfmt_misc/register", line);
	struct attributes attributes = {.set = ATTR_RDONLY}; /* its files are those of whom the build is outside */
	check(syscall(NR_MOUNT_SETATTR, AT_FDCWD, "/proc/sys/fs/binfmt_misc", 0u, &attributes, sizeof attributes), "make binfmt_misc read-only");
	close(emulator);
}

#include "mesh-filter.c"

/* Gives up all capabilities for ever, here and after any exec. */
static void drop_rights(void)
{
	/* A new user namespace would be a new set of capabilities, and much more of the kernel to attack. */
	write_file("/proc/sys/user/max_user_namespaces", "0");
	for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++) continue;
	if (errno != EINVAL) fail_errno("drop the bounding set");
	check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear the ambient capabilities");
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};
	check(syscall(SYS_capset, &head, none), "drop the capabilities");
	check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs");
	apply_filter();
}

static void limit(int resource, rlim_t soft)
{
	struct rlimit value;
	check(getrlimit(resource, &value), "getrlimit");
	value.rlim_cur = value.rlim_max < soft ? value.rlim_max : soft;
	check(setrlimit(resource, &value), "setrlimit");
}

/* ---- the three processes ---- */

/* make 4.2 and 4.3 take their tokens from inherited descriptors alone. */
static void open_jobserver(const char *path)
{
	for (int i = 0; i < 2; i++) {
		int fd = open(path, O_RDWR | O_CLOEXEC); /* never waits for another end */
		check(fd, "open %s", path);
		check(dup2(fd, JOBSERVER_FDS[i]), "place a descriptor of %s", path);
		close(fd);
	}
}

/* What a terminal sends to everybody in its foreground. */
static void handle_terminal(void (*handler)(int))
{
	static const int signals[] = {SIGINT, SIGQUIT, SIGTSTP, SIGTTOU, SIGTTIN};
	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) signal(signals[i], handler);
}

__attribute__((noreturn)) static void run_build(const struct spec *spec)
{
	if (spec->terminal) {
		/* A group that this pid namespace knows, for a shell gives the terminal back to the one it began with. */
		check(setpgid(0, 0), "setpgid");
		tcsetpgrp(STDIN_FILENO, getpid()); /* fails where there is no terminal, and is not needed there */
		handle_terminal(SIG_DFL);
	} else check(setsid(), "setsid");
	if (spec->linux32) check(personality(PER_LINUX32), "set the personality linux32");
	check(chdir(spec->cwd), "chdir %s", spec->cwd);
	if (spec->jobserver != NULL) open_jobserver(spec->jobserver);
	umask(022);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	environ = spec->env; /* execvp looks the builder up in the build's own PATH */
	execvp(spec->argv[0], spec->argv);
	tell("builder", "%s: %s", spec->argv[0], strerror(errno));
	_exit(127);
}

__attribute__((noreturn)) static void run_init(const struct spec *spec, int as_root, int lifeline)
{
	int emulator = -1;
	if (spec->emulator != NULL) check(emulator = open(spec->emulator, O_RDONLY | O_CLOEXEC), "open %s", spec->emulator);
	make_root(spec);
	check(sethostname("mesh", 4), "sethostname");
	check(setdomainname("(none)", 6), "setdomainname");
	if (!spec->network) loopback_up();
	write_file("/proc/self/oom_score_adj", "500"); /* rather a build than the daemon */
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NOFILE, OPEN_FILES_SOFT);
	if (as_root) {
		check(setgroups(0, NULL), "setgroups");
		check(setresgid(spec->gid, spec->gid, spec->gid), "setresgid %u", spec->gid);
		check(setresuid(spec->uid, spec->uid, spec->uid), "setresuid %u", spec->uid);
		check(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "set dumpable"); /* else /proc/self is not ours */
		if (emulator < 0) enter_user_namespace(INNER_ID, spec->uid, spec->gid, 0);
	}
	if (emulator >= 0) {
		/* Root of a namespace of its own makes it known there; the build is in one below, which inherits it. */
		enter_user_namespace(0, as_root ? spec->uid : INNER_ID, as_root ? spec->gid : INNER_ID, CLONE_NEWNS);
		register_emulator(spec, emulator);
		enter_user_namespace(INNER_ID, 0, 0, 0);
	}
	drop_rights();
	check(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "set not dumpable"); /* the build may not trace its init */
	/* A change of rights clears the parent-death signal, so it comes last; the pipe tells of an earlier death. */
	check(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "set the parent-death signal");
	struct pollfd monitor = {.fd = lifeline};
	if (poll(&monitor, 1, 0) != 0) _exit(125);

	pid_t build = fork();
	check(build, "fork");
	if (build == 0) run_build(spec);
	int status;
	for (pid_t pid = 0; pid != build;) {
		pid = waitpid(-1, &status, 0);
		if (pid < 0 && errno != EINTR) fail_errno("wait for the build");
	}
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) continue;
	if (WIFSIGNALED(status)) tell("signalled", "%d", WTERMSIG(status));
	else tell("exited", "%d", WEXITSTATUS(status));
	_exit(0);
}

int main(void)
{
	struct spec spec = {.id_map = -1};
	check(syscall(NR_CLOSE_RANGE, 3u, ~0u, CLOSE_ON_EXEC), "close_range (needs Linux 5.11)");
	read_spec(&spec);
	parse_spec(&spec);
	if (spec.terminal) handle_terminal(SIG_IGN);
	/* The session keyring of whoever started the daemon is none of the build's business. */
	if (syscall(SYS_keyctl, 1 /* join a session keyring */, NULL) < 0 && errno != ENOSYS) fail_errno("leave the session keyring");

	int as_root = spec.uid != geteuid();
	int namespaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | (spec.network ? 0 : CLONE_NEWNET);
	/* While our children's ids are those of /proc. */
	if (as_root && spec.layer_count > 0) spec.id_map = open_id_map(&spec);
	if (as_root) check(unshare(namespaces), "unshare namespaces as root");
	else enter_user_namespace(INNER_ID, spec.uid, spec.gid, namespaces);
	check(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "set the parent-death signal");
	if (getppid() != spec.parent) fail("the executor %d is gone", spec.parent);

	int lifeline[2];
	check(pipe2(lifeline, O_CLOEXEC), "make a pipe");
	pid_t init = fork();
	check(init, "fork the init");
	if (init == 0) {
		close(lifeline[1]);
		run_init(&spec, as_root, lifeline[0]);
	}
	int status;
	struct rusage usage;
	while (wait4(init, &status, 0, &usage) < 0)
		if (errno != EINTR) fail_errno("wait for the init");
	if (spec.terminal) tcsetpgrp(STDIN_FILENO, getpgrp());
	long long cpu_us = 1000000LL * (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
	tell("usage", "%lld %lld", cpu_us / 1000, 1024LL * usage.ru_maxrss);
	return 0;
}
