/* A program that the guard can't reach: it calls no malloc, or (OWN_MALLOC) exports its own, as
 * runtimes with a built-in allocator do. Asks for the line and ends. With IN_LIBRARY it is a small
 * program around a library that allocates (LIBRARY), which can be reached. */
#include <signal.h>

#ifdef LIBRARY
#include <stdlib.h>

void *volatile kept;

int library_work(void)
{
	kept = malloc(160);
	return raise(SIGUSR1);
}
#else

#ifdef OWN_MALLOC
static _Alignas(16) char heap[1 << 20];
static unsigned long used;

void *malloc(unsigned long size)
{
	unsigned long at = used;

	used += (size + 15) & ~15ul;
	return used <= sizeof heap ? heap + at : 0;
}

void free(void *object)
{
	(void)object;
}

void *volatile last;
#endif

#ifdef IN_LIBRARY
int library_work(void);
#endif

int main(void)
{
#ifdef IN_LIBRARY
	return library_work();
#endif
#ifdef OWN_MALLOC
	last = malloc(160);
	free(last);
#endif
	return raise(SIGUSR1);
}
#endif
