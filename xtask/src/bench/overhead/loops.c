/*
 * The system calls whose price `cargo xtask bench overhead` tells.
 *
 *     loops BATCHES FILE TRUE
 *
 * FILE is read and opened, TRUE is executed. Prints one line per loop: its name, then nanoseconds of CPU per call, one
 * number per batch. CPU rather than time, since others use this machine too; what a call's own children use is part of
 * its price. It runs on one CPU only, the last that it may use.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *file, *program;

static void getppids(long calls)
{
	while (calls--)
		syscall(SYS_getppid);
}

static void reads(long calls)
{
	static int fd = -1;
	char byte;

	if (fd < 0 && (fd = open(file, O_RDONLY | O_CLOEXEC)) < 0)
		err(1, "%s", file);
	lseek(fd, 0, SEEK_SET);
	while (calls--)
		if (syscall(SYS_read, fd, &byte, 1) != 1)
			errx(1, "%s is too short", file);
}

static void opens(long calls)
{
	while (calls--) {
		int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDONLY);

		if (fd < 0)
			err(1, "%s", file);
		syscall(SYS_close, fd);
	}
}

static void connects(long calls)
{
	static struct sockaddr_in closed = { .sin_family = AF_INET };
	static int fd = -1;
	socklen_t size = sizeof closed;

	if (fd < 0) {
		/* Bound, and so nobody else's, but never listening. */
		int held = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		closed.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		if (held < 0 || bind(held, (struct sockaddr *)&closed, size) ||
		    getsockname(held, (struct sockaddr *)&closed, &size))
			err(1, "a port of our own");
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	}
	while (calls--)
		if (syscall(SYS_connect, fd, &closed, size) == 0)
			errx(1, "somebody listens on a port that is closed");
}

static void executions(long calls)
{
	char *arguments[] = { (char *)program, NULL }, *environment[] = { NULL };

	while (calls--) {
		int status;
		pid_t child = fork();

		if (child == 0) {
			execve(program, arguments, environment);
			_exit(127);
		}
		if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
			errx(1, "%s could not be run", program);
	}
}

static double cpu(void)
{
	struct timespec own;
	struct rusage children;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
	getrusage(RUSAGE_CHILDREN, &children);
	return own.tv_sec * 1e9 + own.tv_nsec +
	       (children.ru_utime.tv_sec + children.ru_stime.tv_sec) * 1e9 +
	       (children.ru_utime.tv_usec + children.ru_stime.tv_usec) * 1e3;
}

static void pin(void)
{
	cpu_set_t may, one;
	int cpu = CPU_SETSIZE - 1;

	if (sched_getaffinity(0, sizeof may, &may))
		err(1, "sched_getaffinity");
	while (cpu > 0 && !CPU_ISSET(cpu, &may))
		cpu--;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof one, &one))
		err(1, "sched_setaffinity");
}

/* So many calls that a batch takes some milliseconds: far more than reading the clock, far less than a time slice. */
static const struct {
	const char *name;
	void (*loop)(long calls);
	long calls;
} loops[] = {
	{ "getppid", getppids, 40000 },
	{ "read", reads, 20000 },
	{ "open", opens, 5000 },
	{ "connect", connects, 800 },
	{ "exec", executions, 25 },
};

int main(int count, char **arguments)
{
	if (count != 4)
		errx(2, "usage: loops BATCHES FILE TRUE");
	file = arguments[2];
	program = arguments[3];
	pin();
	for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
		printf("%s", loops[i].name);
		for (long batch = atol(arguments[1]); batch > 0; batch--) {
			double before = cpu();

			loops[i].loop(loops[i].calls);
			printf(" %.2f", (cpu() - before) / loops[i].calls);
		}
		printf("\n");
	}
	return 0;
}
