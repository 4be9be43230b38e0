/*
 * The system calls whose price `cargo xtask bench overhead` tells.
 *
 *     loops BATCHES FILE TRUE
 *
 * FILE is read and opened, TRUE is executed. Prints a line per batch: the loop's name, nanoseconds per call as they
 * passed, and nanoseconds of CPU, those of children included. Time is what counts: part of a connection's CPU can be
 * anybody's. So that it means something where others are at work too, a batch is much shorter than a time slice, and
 * most of them pass undisturbed. It runs on one CPU only, the last that it may use.
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

static double now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static double cpu(void)
{
	struct rusage children;

	getrusage(RUSAGE_CHILDREN, &children);
	return now(CLOCK_PROCESS_CPUTIME_ID) +
	       (children.ru_utime.tv_sec + children.ru_stime.tv_sec) * 1e9 +
	       (children.ru_utime.tv_usec + children.ru_stime.tv_usec) * 1e3;
}

/* So many calls that a batch takes some tenths of a millisecond. */
static const struct {
	const char *name;
	void (*loop)(long calls);
	long calls;
} loops[] = {
	{ "getppid", getppids, 3000 },
	{ "read", reads, 1500 },
	{ "open", opens, 400 },
	{ "connect", connects, 60 },
	{ "exec", executions, 1 },
};

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

int main(int count, char **arguments)
{
	long batches = count == 4 ? atol(arguments[1]) : 0;
	struct { double time, cpu; } *taken = calloc(batches, sizeof *taken);

	if (batches <= 0 || !taken)
		errx(2, "usage: loops BATCHES FILE TRUE");
	file = arguments[2];
	program = arguments[3];
	pin();
	for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
		for (long batch = 0; batch < batches; batch++) {
			double cpu_before = cpu(), before = now(CLOCK_MONOTONIC);

			loops[i].loop(loops[i].calls);
			taken[batch].time = (now(CLOCK_MONOTONIC) - before) / loops[i].calls;
			taken[batch].cpu = (cpu() - cpu_before) / loops[i].calls;
		}
		for (long batch = 0; batch < batches; batch++)
			printf("%s %.2f %.2f\n", loops[i].name, taken[batch].time, taken[batch].cpu);
	}
	return 0;
}
