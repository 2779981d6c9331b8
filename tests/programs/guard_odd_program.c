/* Runs on guard_odd_allocator.c behind the guard; exit status 0 if all is well. */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
	void **made = dlsym(RTLD_DEFAULT, "made_while_resolving");
	char *early, *grown;

	if (!made || !*made)
		return 1;
	early = *made;
	if (early[0] != 'x' || early[159] != 'y')
		return 2;
	grown = realloc(early, 1000);
	if (!grown || grown == early || grown[0] != 'x' || grown[159] != 'y')
		return 3;
	free(early);
	for (int i = 0; i < 1000; i++) {
		char *object = calloc(1, 168);

		object = realloc(object, 300);
		memset(object, 1, 300);
		errno = 77;
		free(object);
		if (errno != 77)
			return 4;
	}
	return raise(SIGUSR1);
}
