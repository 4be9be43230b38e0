# A day with git: a repository, a server's copy of it by path and by ssh, clones, pushes, fetches.
set -eu
git config --global user.name code
git config --global user.email code@localhost
git config --global init.defaultBranch main
git init -q project
cd project
for n in $(seq 200); do echo "line $n" >"file$n"; done
git add . && git commit -qm one
git init -q --bare ../server.git
for url in "$PWD/../server.git" "ssh://code@localhost:22$PWD/../server.git"; do
    git remote remove origin 2>/dev/null || :
    git remote add origin "$url"
    echo more >>file1 && git commit -qam more
    git push -q origin main
    rm -rf ../clone
    git clone -q "$url" ../clone
    (cd ../clone && echo theirs >>file2 && git commit -qam theirs && git push -q origin main)
    git fetch -q origin
    git merge -q --ff-only origin/main
    git gc -q
done
test "$(git log --oneline | wc -l)" = 5
echo "git done"
