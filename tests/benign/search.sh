# Looking for a word in a tree of sources, in all the ways there are.
set -eu
mkdir -p tree
for n in $(seq 300); do echo "let token$n = next_token($n); // password" >"tree/$n.rs"; done
test "$(grep -rn token tree | wc -l)" = 300
test "$(rg -c token tree | wc -l)" = 300
find tree -name '*.rs' -exec grep -l token {} + | xargs wc -l | tail -n 1 | grep -q 300
awk '/token/ { n++ } END { exit n != 300 }' tree/*.rs
sed -n 's/token/TOKEN/p' tree/1.rs | grep -q TOKEN
python3 -c 'import pathlib; assert sum("token" in p.read_text() for p in pathlib.Path("tree").iterdir()) == 300'
echo "search done"
