/*
 * The system calls that a sealed build cannot make, part of mesh-sandbox.c.
 *
 * Two kinds: those that no build needs and by which kernels are attacked or the host is asked for more than
 * the namespaces show (keys, bpf, io_uring, modules, mounts, odd sockets), and those by which a build could
 * leave something in its outputs that no tree holds (set-user-id bits, extended attributes). What programs
 * do without where a kernel lacks it is answered with ENOSYS or ENOTSUP, the rest with EPERM. Tracing one's
 * own processes is allowed: debuggers are part of tests.
 *
 * Written by hand for the kernel's classic BPF: the rules of a call are by its number, so each ABI that the
 * kernel runs has its own section; calls of any other ABI (x32, for one) do not exist. 32-bit x86 programs
 * open sockets by `socketcall`, whose arguments are in memory where no filter sees them: those are held by
 * the network namespace alone.
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

#define RULES_MAX 1024
#define SET_ID_BITS 06000u
#define OPEN_MAKES (0100u | 020000000u) /* O_CREAT and O_TMPFILE, the same in all ABIs below */
#define TERMINAL_INPUT 0x5412u /* TIOCSTI types into the terminal of whoever started us */
#define SPECULATION_ALLOWED 4u /* the walls are between processes: no slower memory for the build */

struct filter {
	struct sock_filter code[RULES_MAX];
	unsigned short length;
};

static void rule(struct filter *filter, unsigned short code, unsigned char yes, unsigned char no, uint32_t value)
{
	if (filter->length == RULES_MAX) fail("the filter of system calls has more than %d rules", RULES_MAX);
	filter->code[filter->length++] = (struct sock_filter){code, yes, no, value};
}

#define LOAD(field) BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offsetof(struct seccomp_data, field)
#define IS(value, yes, no) BPF_JMP | BPF_JEQ | BPF_K, yes, no, (uint32_t)(value)
#define HAS(bits, yes, no) BPF_JMP | BPF_JSET | BPF_K, yes, no, bits
#define AT_LEAST(value, yes, no) BPF_JMP | BPF_JGE | BPF_K, yes, no, value
#define ANSWER(number) BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | (number)
/* All ABIs below put the low half of an argument first. */
#define LOAD_ARGUMENT(n) LOAD(args[n])

/* Each of these expects the number of the call to be loaded, and leaves it loaded. */

static void refuse(struct filter *filter, const short *calls, unsigned number)
{
	for (; *calls >= 0; calls++) {
		rule(filter, IS(*calls, 0, 1));
		rule(filter, ANSWER(number));
	}
}

static void refuse_bits(struct filter *filter, int call, int argument, uint32_t bits)
{
	if (call < 0) return;
	rule(filter, IS(call, 0, 4));
	rule(filter, LOAD_ARGUMENT(argument));
	rule(filter, HAS(bits, 0, 1));
	rule(filter, ANSWER(EPERM));
	rule(filter, LOAD(nr));
}

/* The mode counts only where the call makes a file. */
static void refuse_open(struct filter *filter, int call, int flags)
{
	if (call < 0) return;
	rule(filter, IS(call, 0, 6));
	rule(filter, LOAD_ARGUMENT(flags));
	rule(filter, HAS(OPEN_MAKES, 0, 3));
	rule(filter, LOAD_ARGUMENT(flags + 1));
	rule(filter, HAS(SET_ID_BITS, 0, 1));
	rule(filter, ANSWER(EPERM));
	rule(filter, LOAD(nr));
}

static void refuse_value(struct filter *filter, int call, int argument, uint32_t value)
{
	rule(filter, IS(call, 0, 4));
	rule(filter, LOAD_ARGUMENT(argument));
	rule(filter, IS(value, 0, 1));
	rule(filter, ANSWER(EPERM));
	rule(filter, LOAD(nr));
}

/* Unix, IPv4 and IPv6, and of netlink what lists the interfaces. */
static void refuse_sockets(struct filter *filter, int call)
{
	rule(filter, IS(call, 0, 10));
	rule(filter, LOAD_ARGUMENT(0));
	rule(filter, IS(1, 7, 0));
	rule(filter, IS(2, 6, 0));
	rule(filter, IS(10, 5, 0));
	rule(filter, IS(16, 1, 0));
	rule(filter, ANSWER(EAFNOSUPPORT));
	rule(filter, LOAD_ARGUMENT(2));
	rule(filter, IS(0, 1, 0));
	rule(filter, ANSWER(EPROTONOSUPPORT));
	rule(filter, LOAD(nr));
}

/* What one ABI calls its calls; -1 for one that it lacks. */
struct abi {
	uint32_t name;
	const short *forbidden, *absent, *attributes;
	short chmod, fchmod, fchmodat, open, openat, creat, mknod, mknodat, socket, socketpair, ioctl;
	uint32_t ends; /* numbers from here on belong to another ABI; 0 for none */
};

static void refuse_abi(struct filter *filter, const struct abi *abi)
{
	rule(filter, IS(abi->name, 1, 0));
	unsigned short jump = filter->length;
	rule(filter, BPF_JMP | BPF_JA, 0, 0, 0);
	rule(filter, LOAD(nr));
	if (abi->ends != 0) {
		rule(filter, AT_LEAST(abi->ends, 0, 1));
		rule(filter, ANSWER(ENOSYS));
	}
	refuse(filter, abi->forbidden, EPERM);
	refuse(filter, abi->absent, ENOSYS);
	refuse(filter, abi->attributes, ENOTSUP);
	refuse_bits(filter, abi->chmod, 1, SET_ID_BITS);
	refuse_bits(filter, abi->fchmod, 1, SET_ID_BITS);
	refuse_bits(filter, abi->fchmodat, 2, SET_ID_BITS);
	refuse_bits(filter, 452 /* fchmodat2 */, 2, SET_ID_BITS);
	refuse_bits(filter, abi->creat, 1, SET_ID_BITS);
	refuse_bits(filter, abi->mknod, 1, SET_ID_BITS);
	refuse_bits(filter, abi->mknodat, 2, SET_ID_BITS);
	refuse_open(filter, abi->open, 1);
	refuse_open(filter, abi->openat, 2);
	refuse_value(filter, abi->ioctl, 1, TERMINAL_INPUT);
	refuse_sockets(filter, abi->socket);
	refuse_sockets(filter, abi->socketpair);
	rule(filter, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
	filter->code[jump].k = (uint32_t)(filter->length - jump - 1);
}

/*
 * Forbidden: perf_event_open, bpf, kexec_load, kexec_file_load, init_module, finit_module, delete_module,
 * create_module, mount, umount, umount2, pivot_root, swapon, swapoff, reboot, acct, quotactl, settimeofday,
 * stime, clock_settime, clock_adjtime, iopl, ioperm, fanotify_init, syslog, open_by_handle_at,
 * lookup_dcookie, nfsservctl, setns; and with one number everywhere: open_tree 428, move_mount 429,
 * fsopen 430, fsconfig 431, fsmount 432, fspick 433, mount_setattr 442, quotactl_fd 443, open_tree_attr 467.
 * Absent: add_key, request_key, keyctl, userfaultfd, io_uring_setup 425, io_uring_enter 426,
 * io_uring_register 427, openat2 437 (its mode is in memory, where no filter sees it).
 * Attributes: {,l,f}{set,get,list,remove}xattr; setxattrat 463, getxattrat, listxattrat, removexattrat 466.
 */
#define FORBIDDEN_EVERYWHERE 428, 429, 430, 431, 432, 433, 442, 443, 467, -1
#define ABSENT_EVERYWHERE 425, 426, 427, 437, -1
#define ATTRIBUTES_EVERYWHERE 463, 464, 465, 466, -1

#if defined(__x86_64__)
static const struct abi ABIS[] = {
	{.name = AUDIT_ARCH_X86_64, .ends = 0x40000000u, /* x32 */
		.forbidden = (const short[]){298, 321, 246, 320, 175, 313, 176, 174, 165, 166, 155, 167, 168, 169, 163, 179, 164, 227, 305, 172, 173, 300, 103, 304, 212, 180, 308, FORBIDDEN_EVERYWHERE},
		.absent = (const short[]){248, 249, 250, 323, ABSENT_EVERYWHERE},
		.attributes = (const short[]){188, 189, 190, 191, 192, 193, 194, 195, 196, 197, 198, 199, ATTRIBUTES_EVERYWHERE},
		.chmod = 90, .fchmod = 91, .fchmodat = 268, .open = 2, .openat = 257, .creat = 85, .mknod = 133, .mknodat = 259, .socket = 41, .socketpair = 53, .ioctl = 16},
	{.name = AUDIT_ARCH_I386,
		.forbidden = (const short[]){336, 357, 283, 128, 350, 129, 127, 21, 22, 52, 217, 87, 115, 88, 51, 131, 79, 25, 264, 343, 404, 405, 110, 101, 338, 103, 342, 253, 169, 346, FORBIDDEN_EVERYWHERE},
		.absent = (const short[]){286, 287, 288, 374, ABSENT_EVERYWHERE},
		.attributes = (const short[]){226, 227, 228, 229, 230, 231, 232, 233, 234, 235, 236, 237, ATTRIBUTES_EVERYWHERE},
		.chmod = 15, .fchmod = 94, .fchmodat = 306, .open = 5, .openat = 295, .creat = 8, .mknod = 14, .mknodat = 297, .socket = 359, .socketpair = 360, .ioctl = 54},
};
#elif defined(__aarch64__)
static const struct abi ABIS[] = {
	{.name = AUDIT_ARCH_AARCH64,
		.forbidden = (const short[]){241, 280, 104, 294, 105, 273, 106, 40, 39, 41, 224, 225, 142, 89, 60, 170, 112, 266, 262, 116, 265, 18, 42, 268, FORBIDDEN_EVERYWHERE},
		.absent = (const short[]){217, 218, 219, 282, ABSENT_EVERYWHERE},
		.attributes = (const short[]){5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, ATTRIBUTES_EVERYWHERE},
		.chmod = -1, .fchmod = 52, .fchmodat = 53, .open = -1, .openat = 56, .creat = -1, .mknod = -1, .mknodat = 33, .socket = 198, .socketpair = 199, .ioctl = 29},
	{.name = AUDIT_ARCH_ARM,
		.forbidden = (const short[]){364, 386, 347, 401, 128, 379, 129, 21, 52, 218, 87, 115, 88, 51, 131, 79, 262, 372, 404, 405, 367, 103, 371, 249, 169, 375, FORBIDDEN_EVERYWHERE},
		.absent = (const short[]){309, 310, 311, 388, ABSENT_EVERYWHERE},
		.attributes = (const short[]){226, 227, 228, 229, 230, 231, 232, 233, 234, 235, 236, 237, ATTRIBUTES_EVERYWHERE},
		.chmod = 15, .fchmod = 94, .fchmodat = 333, .open = 5, .openat = 322, .creat = 8, .mknod = 14, .mknodat = 324, .socket = 281, .socketpair = 288, .ioctl = 54},
};
#else
#define NO_ABIS
#endif

/* For ever, here and after any exec. Needs no_new_privs. A kernel without filters goes without: the trial tells. */
static void apply_filter(void)
{
#ifndef NO_ABIS
	struct filter filter = {.length = 0};
	rule(&filter, LOAD(arch));
	for (size_t i = 0; i < sizeof ABIS / sizeof *ABIS; i++) refuse_abi(&filter, &ABIS[i]);
	rule(&filter, ANSWER(ENOSYS));
	struct sock_fprog program = {.len = filter.length, .filter = filter.code};
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SPECULATION_ALLOWED, &program) == 0) return;
	if (errno == EINVAL && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0) return;
	if (errno != EINVAL && errno != ENOSYS) fail_errno("apply the filter of system calls");
#endif
}
