/* A program under the guard: some requests of the watched class, then the guard's line. */
#include <signal.h>
#include <stdlib.h>

int main(void)
{
	for (int i = 0; i < 1000; i++)
		if (!malloc(160))
			return 1;
	return raise(SIGUSR1);
}
