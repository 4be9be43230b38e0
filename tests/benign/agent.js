// What a coding agent does all day: it holds a TLS connection to its service, asks it things, and meanwhile runs shells
// with their streams on socket pairs (Node's own pipes), on pipes and on terminals.
// Usage: node agent.js HOST PORT. The service answers each line with the line reversed.
"use strict";
const { execFile, spawn } = require("child_process");
const fs = require("fs");
const readline = require("readline");
const tls = require("tls");

const [host, port] = process.argv.slice(2);
const service = tls.connect({ host, port: Number(port), rejectUnauthorized: false });
const waiting = [];
readline.createInterface({ input: service }).on("line", (line) => waiting.shift()?.(line));
const ask = (line) => new Promise((answered) => {
  waiting.push(answered);
  service.write(line + "\n");
});

const check = (what, got, wanted) => {
  if (got !== wanted) throw new Error(`${what}: ${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
};

// Runs a program, feeds it input, and gives back what it printed.
const run = (words, input = "", options = {}) => new Promise((ended, failed) => {
  const child = spawn(words[0], words.slice(1), { stdio: ["pipe", "pipe", "inherit"], ...options });
  let output = "";
  child.stdout.on("data", (data) => { output += data; });
  child.on("error", failed);
  child.on("close", (code) => (code === 0 ? ended(output) : failed(new Error(`${words}: ${code}\n${output}`))));
  // Not every program reads its input to the end before it ends itself.
  child.stdin.on("error", () => {});
  child.stdin.end(input);
});

const plain = (text) => text.replace(/\r/g, "");

(async () => {
  await new Promise((connected, failed) => service.once("secureConnect", connected).once("error", failed));
  for (let turn = 0; turn < 5; turn += 1) {
    check("the service", await ask(`turn ${turn}`), [...`turn ${turn}`].reverse().join(""));
    const all = await Promise.all([
      run(["bash", "-c", "echo pairs; cat"], "input\n"),
      run(["bash", "-lc", "echo login"]),
      run(["bash"], "echo from stdin\n"),
      run(["sh", "-c", "echo a | (read x; echo \"$x\" | bash -c 'cat; echo piped')"]),
      run(["python3", "-c",
        "import subprocess as s; print(s.run(['bash'], input='echo pipes', text=True, stdout=s.PIPE).stdout, end='')"]),
      run(["script", "-qec", "bash -ic 'echo terminal; tty >/dev/null && echo yes'", "/dev/null"]).then(plain),
      run(["python3", "-c", "import pty, sys; sys.exit(pty.spawn(['bash', '-c', 'echo spawned; tty >/dev/null && echo yes']))"])
        .then(plain),
      new Promise((ended, failed) => {
        execFile("bash", ["-c", "echo exec"], (error, output) => (error ? failed(error) : ended(output)));
      }),
    ]);
    check("the shells", all.join(""), "pairs\ninput\nlogin\nfrom stdin\na\npiped\npipes\nterminal\nyes\nspawned\nyes\nexec\n");
    // A shell in the background, with files for its output, as for a server that is left running.
    const log = fs.openSync("agent.log", "a");
    const background = spawn("bash", ["-c", "echo background; exec sleep 0.01"],
      { stdio: ["ignore", log, log], detached: true });
    await new Promise((ended) => background.on("close", ended));
    fs.closeSync(log);
  }
  check("the log", fs.readFileSync("agent.log", "utf8"), "background\n".repeat(5));
  check("the service", await ask("done"), "enod");
  service.end();
  console.log("agent done");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
