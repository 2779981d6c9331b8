#!/bin/sh
# Looks at a built guard library: what it needs, what it offers, how it is laid out.
# Usage: check-guard.sh PATH-OF-libclaude_guard.so
# Every fault is one line on stderr; exit status 1 if there was any, 2 if the file can't be read.
set -u
export LC_ALL=C

library=${1:?usage: check-guard.sh PATH-OF-libclaude_guard.so}
max_bytes=$((96 * 1024))
max_glibc=2.17
interposed='aligned_alloc calloc cfree free free_aligned_sized free_sized madvise malloc
malloc_usable_size memalign mmap mmap64 mprotect mremap munmap posix_memalign pvalloc realloc
reallocarray sigaction signal valloc'

dynamic=$(readelf -dW "$library") || exit 2
symbols=$(readelf --dyn-syms -W "$library") || exit 2
segments=$(readelf -lW "$library") || exit 2
size=$(wc -c <"$library") || exit 2

faults=0
fault() {
	printf '%s: %s\n' "$library" "$*" >&2
	faults=$((faults + 1))
}

needed=$(printf '%s\n' "$dynamic" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p' | tr '\n' ' ')
[ "$needed" = 'libc.so.6 ' ] || fault "needs more than libc.so.6: $needed"

imported=$(printf '%s\n' "$symbols" | awk '$7 == "UND" && $8 != "" { print $8 }')
# GNU ld lists sections among the dynamic symbols on some machines (aarch64): names for relocations, nothing offered.
exported=$(printf '%s\n' "$symbols" | awk '$4 != "SECTION" && $7 != "UND" && $7 != "Ndx" && $8 != "" { print $8 }' | sort)
[ -n "$imported" ] || fault 'imports nothing: the symbols were not understood'

for version in $(printf '%s\n' "$imported" | sed -n 's/.*@GLIBC_//p' | sort -u); do
	newest=$(printf '%s\n%s\n' "$version" "$max_glibc" | sort -V | tail -n 1)
	[ "$newest" = "$max_glibc" ] || fault "needs GLIBC_$version, newer than $max_glibc"
done
for name in $imported; do
	case $name in
	*@GLIBC_[0-9]*) ;;
	# Anything without a version would have to come from somewhere that isn't NEEDED.
	*) fault "imports $name, which libc.so.6 does not promise" ;;
	esac
	case $name in
	__tls_get_addr*) fault 'uses the general TLS model' ;;
	esac
done

expected=$(printf '%s\n' $interposed | sort)
[ "$exported" = "$expected" ] || fault "exports $(printf '%s ' $exported), not just the interposed family"

[ "$size" -le "$max_bytes" ] || fault "has $size bytes, more than $max_bytes"

printf '%s\n' "$segments" | grep -Eq '^ +LOAD .* R E ' || fault 'has no code: the segments were not understood'
if printf '%s\n' "$segments" | grep -Eq '^ +(LOAD|GNU_STACK) .* RWE '; then
	fault 'has a segment that is writable and executable'
fi
printf '%s\n' "$segments" | grep -Eq '^ +GNU_STACK ' || fault 'does not ask for a stack without execution'
if printf '%s\n' "$dynamic" | grep -q TEXTREL; then
	fault 'has relocations in its code'
fi
if printf '%s\n' "$dynamic" | grep -Eq '\((RPATH|RUNPATH)\)'; then
	fault 'says where its libraries are to be looked for'
fi
printf '%s\n' "$segments" | grep -Eq '^ +GNU_RELRO ' || fault 'has no tables that are read-only after the start'
printf '%s\n' "$dynamic" | grep -Eq 'BIND_NOW|FLAGS_1.* NOW' || fault 'binds functions late, in a table that stays writable'

[ "$faults" -eq 0 ]
