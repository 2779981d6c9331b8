/* An ordinary program for a libc that is not glibc: threads that allocate, write, free. Says at its
 * end whether the guard was in it, so that nobody mistakes its absence for harmlessness. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OBJECTS = 1000, ROUNDS = 100 };

static void *work(void *seed)
{
	unsigned char *objects[OBJECTS];
	for (int round = 0; round < ROUNDS; round++) {
		for (int at = 0; at < OBJECTS; at++) {
			objects[at] = malloc(140 + at % 40);
			memset(objects[at], at + (int)(long)seed, 140);
		}
		for (int at = 0; at < OBJECTS; at++) {
			if (objects[at][139] != (unsigned char)(at + (int)(long)seed))
				return "a wrong byte";
			free(objects[at]);
		}
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[4];
	void *fault;
	char line[4096];
	int guarded = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	while (maps && fgets(line, sizeof line, maps))
		guarded |= strstr(line, "libclaude_guard") != NULL;
	for (long at = 0; at < 4; at++)
		pthread_create(&threads[at], NULL, work, (void *)at);
	for (int at = 0; at < 4; at++) {
		pthread_join(threads[at], &fault);
		if (fault)
			puts(fault);
	}
	printf("guarded=%d done\n", guarded);
	return 0;
}
