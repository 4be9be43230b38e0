# make -j4 of a hundred files of C, with everything rebuilt once.
set -eu
mkdir -p c && cd c
for n in $(seq 100); do
    printf '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint f%s(int x) { return printf("") + x + %s; }\n' "$n" "$n" >"f$n.c"
done
{ for n in $(seq 100); do echo "int f$n(int);"; done
  echo '#include <stdio.h>'; echo 'int main(void) { int x = 0;'
  for n in $(seq 100); do echo "x = f$n(x);"; done
  echo 'printf("%d\n", x); return 0; }'; } >main.c
printf 'OBJECTS := $(patsubst %%.c,%%.o,$(wildcard *.c))\nprogram: $(OBJECTS)\n\t$(CC) -o $@ $^\n' >Makefile
printf '%%.o: %%.c\n\t@$(CC) -c -o $@ $< && echo "$@" | sed -e "s/o$$/c/" >/dev/null\nclean:\n\trm -f *.o program\n' >>Makefile
make -s -j4 && test "$(./program)" = 5050
make -s clean && make -s -j4
echo "make done"
