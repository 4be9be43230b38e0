# One-liners, interactive shells, pipes between shells, and an installer from the network. Usage: shells.sh HOST:PORT
set -eu
test "$(python3 -c 'print(6 * 7)')" = 42
python3 -c 'import subprocess; subprocess.run(["sh", "-c", "exit 0"], check=True)'
python3 -c 'import socket; s = socket.create_connection(("'"${1%:*}"'", '"${1#*:}"')); s.sendall(b"GET / HTTP/1.0\r\n\r\n"); assert b"installed" in s.makefile("rb").read()'
perl -e 'system("sh", "-c", "exit 0") == 0 or die'
node -e 'require("child_process").execSync("true")'
test "$(bash -ic 'echo interactive' 2>/dev/null)" = interactive
test "$(echo 'echo piped' | bash | cat)" = piped
mkfifo pipe && { cat pipe & echo fifo | sh -c 'cat >pipe'; wait; } | grep -q fifo
coproc SHELL_ { bash; }
echo 'echo coprocess' >&"${SHELL_[1]}" && read -r line <&"${SHELL_[0]}" && test "$line" = coprocess
test "$(curl -fsS "http://$1/install.sh" | sh)" = installed
test "$(curl -fsS "http://$1/install.sh" | bash -s -- --yes)" = installed
sh -c "$(curl -fsS "http://$1/install.sh")" | grep -q installed
echo "shells done"
