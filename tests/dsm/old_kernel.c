/* Linux 3.10 in two parts. As a program it runs another one under a filter that answers ENOSYS to every system call of
 * x86_64 that came after 3.13 (the number 314 and above); as a library (-DLIBRARY, for /etc/ld.so.preload) it makes
 * uname tell the version of DSM 6.1's kernel. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#ifdef LIBRARY

#include <sys/syscall.h>
#include <unistd.h>

int uname(struct utsname *names)
{
    int result = (int)syscall(SYS_uname, names);
    if (result == 0)
        snprintf(names->release, sizeof names->release, "3.10.105");
    return result;
}

#else

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 314, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof rules / sizeof *rules, rules};

    if (count < 2) {
        fprintf(stderr, "usage: old_kernel PROGRAM ARGUMENT...\n");
        return 2;
    }
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) { /* as root without PR_SET_NO_NEW_PRIVS */
        perror("seccomp");
        return 2;
    }
    execv(arguments[1], arguments + 1);
    perror(arguments[1]);
    return 127;
}

#endif
