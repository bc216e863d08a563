/* Makes system calls that a sealed build must be refused, by number, and prints the answer of each. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *name, long answer)
{
	printf("%s %s\n", name, answer < 0 ? strerrorname_np(errno) : "done");
}

#if defined(__x86_64__)
/* The same kernel by the door of 32-bit programs: pointers must be below 4 GiB, numbers are others. */
static void tell_i386(const char *name, int number, long a, long b, long c)
{
	long answer;
	__asm__ volatile("int $0x80" : "=a"(answer) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	errno = (int)-answer;
	tell(name, (int)answer);
}
#endif

int main(void)
{
	int file = open("file", O_CREAT | O_RDWR, 0644);
	tell("keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
	tell("add_key", syscall(SYS_add_key, "user", "a", "b", 1, -3));
	tell("bpf", syscall(SYS_bpf, 0, 0, 0));
	tell("perf_event_open", syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
	tell("userfaultfd", syscall(SYS_userfaultfd, 1));
	tell("io_uring_setup", syscall(425, 8, 0));
	tell("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
	tell("open_tree", syscall(428, -100, "/tmp", 1));
	tell("init_module", syscall(SYS_init_module, 0, 0, ""));
	tell("syslog", syscall(SYS_syslog, 3, 0, 0));
	tell("setns", syscall(SYS_setns, 0, 0));
	tell("fchmod 4755", fchmod(file, 04755));
	tell("fchmodat 2755", fchmodat(AT_FDCWD, "file", 02755, 0));
	tell("fchmod 0755", fchmod(file, 0755));
	tell("openat 4755", openat(AT_FDCWD, "other", O_CREAT | O_RDWR, 04755));
	tell("openat without O_CREAT", syscall(SYS_openat, AT_FDCWD, "file", O_RDONLY, 04755));
	tell("openat2", syscall(437, AT_FDCWD, "file", 0, 0));
	tell("mknodat 4755", syscall(SYS_mknodat, AT_FDCWD, "node", S_IFREG | 04755, 0));
	tell("fsetxattr", syscall(SYS_fsetxattr, file, "user.a", "b", 1, 0));
	tell("flistxattr", syscall(SYS_flistxattr, file, 0, 0));
	tell("socket unix", socket(AF_UNIX, SOCK_STREAM, 0));
	tell("socket inet", socket(AF_INET, SOCK_STREAM, 0));
	tell("socket route", socket(AF_NETLINK, SOCK_RAW, 0));
	tell("socket audit", socket(AF_NETLINK, SOCK_RAW, 9));
	tell("socket alg", socket(38, SOCK_SEQPACKET, 0));
	tell("socket vsock", socket(40, SOCK_STREAM, 0));
	tell("socket packet", socket(17, SOCK_RAW, 0));
	int pair[2];
	tell("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	tell("ptrace", syscall(SYS_ptrace, 0, 0, 0, 0));
#if defined(__x86_64__)
	tell("x32 getpid", syscall(0x40000000 | SYS_getpid));
	tell_i386("i386 getpid", 20, 0, 0, 0);
	tell_i386("i386 keyctl", 288, 0, 0, 0);
	tell_i386("i386 bpf", 357, 0, 0, 0);
	tell_i386("i386 fchmod 4755", 94, file, 04755, 0);
	tell_i386("i386 fchmod 0755", 94, file, 0755, 0);
	tell_i386("i386 flistxattr", 234, file, 0, 0);
	tell_i386("i386 socket alg", 359, 38, SOCK_SEQPACKET, 0);
	tell_i386("i386 socket unix", 359, AF_UNIX, SOCK_STREAM, 0);
	tell_i386("i386 mount", 21, 0, 0, 0);
#endif
	return 0;
}
