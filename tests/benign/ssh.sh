# Logins with and without a terminal, a command, files.
set -eu
echo 'echo through; exit' | ssh localhost bash
test "$(ssh localhost 'bash -c "echo command"')" = command
printf 'tty && echo "a terminal"\nexit\n' | ssh -tt localhost | tr -d '\r' | grep -q '^a terminal$'
script -qec "ssh -t localhost 'tty && echo interactive'" /dev/null | grep -q interactive
echo copied >copy && scp -q copy localhost:copied && test "$(cat ~/copied)" = copied
tar c copy | ssh localhost tar t | grep -qx copy
echo "ssh done"
