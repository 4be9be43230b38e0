/*
 * Who floods a monitor.
 *
 *     flood KIND SECONDS PRODUCERS FILE TRUE
 *
 * So many processes do one thing as fast as they can for so long: open FILE, fork, exec TRUE, or send to ever another
 * address of 127.0.0.0/8. Prints how often they did, which counts only what the kernel did for them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *file, *program;
static volatile sig_atomic_t over;

static void end(int signal)
{
	(void)signal;
	over = 1;
}

static int do_open(unsigned long n)
{
	int fd = open(file, O_RDONLY);

	(void)n;
	return fd >= 0 && close(fd) == 0;
}

/* Forks; the child runs `program`, if it is not NULL. */
static int child(const char *program)
{
	char *arguments[] = { (char *)program, NULL }, *environment[] = { NULL };
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (program)
			execve(program, arguments, environment);
		_exit(program ? 127 : 0);
	}
	/* The alarm may come meanwhile. */
	while (pid > 0 && waitpid(pid, &status, 0) < 0)
		;
	return pid > 0 && status == 0;
}

static int do_fork(unsigned long n)
{
	(void)n;
	return child(NULL);
}

static int do_exec(unsigned long n)
{
	(void)n;
	return child(program);
}

static int do_send(unsigned long n)
{
	static int fd = -1;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(1024 + n % 60000) };

	if (fd < 0 && (fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0)
		err(1, "socket");
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK + n % 0xfffff0);
	return sendto(fd, "flood", 5, 0, (struct sockaddr *)&to, sizeof to) == 5;
}

static const struct {
	const char *name;
	int (*act)(unsigned long n);
} kinds[] = { { "open", do_open }, { "fork", do_fork }, { "exec", do_exec }, { "send", do_send } };

int main(int count, char **arguments)
{
	int (*act)(unsigned long n) = NULL;
	int producers = count == 6 ? atoi(arguments[3]) : 0;
	unsigned long *done, all = 0;
	struct sigaction ending = { .sa_handler = end };

	for (size_t i = 0; count == 6 && i < sizeof kinds / sizeof *kinds; i++)
		if (strcmp(kinds[i].name, arguments[1]) == 0)
			act = kinds[i].act;
	if (!act || producers <= 0)
		errx(2, "usage: flood open|fork|exec|send SECONDS PRODUCERS FILE TRUE");
	file = arguments[4];
	program = arguments[5];
	done = mmap(NULL, producers * sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (done == MAP_FAILED)
		err(1, "mmap");
	sigaction(SIGALRM, &ending, NULL);
	for (int i = 0; i < producers; i++) {
		pid_t pid = fork();

		if (pid < 0)
			err(1, "fork");
		if (pid > 0) {
			/* What makes the producers is a fork like any other. */
			all += act == do_fork;
			continue;
		}
		/* An alarm is not inherited. */
		alarm(atoi(arguments[2]));
		for (unsigned long n = 0; !over; n++)
			done[i] += act(n * producers + i);
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	for (int i = 0; i < producers; i++)
		all += done[i];
	printf("%lu\n", all);
	return 0;
}
