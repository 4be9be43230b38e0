# npm install with packages of this machine, whose life cycle scripts run shells and node.
set -eu
mkdir -p app left right
cat >left/package.json <<'END'
{ "name": "left", "version": "1.0.0", "bin": { "left": "left.js" },
  "scripts": { "preinstall": "echo preinstall", "install": "node -e 'process.exit(0)'", "postinstall": "sh -c 'env | sort >installed'" } }
END
printf '#!/usr/bin/env node\nconsole.log("left")\n' >left/left.js
chmod +x left/left.js
cat >right/package.json <<'END'
{ "name": "right", "version": "1.0.0", "dependencies": { "left": "file:../left" },
  "scripts": { "postinstall": "node -e 'require(`child_process`).execSync(`bash -c true`)'" } }
END
cat >app/package.json <<'END'
{ "name": "app", "version": "1.0.0", "dependencies": { "left": "file:../left", "right": "file:../right" },
  "scripts": { "test": "left && node --version | grep -q v && echo tested" } }
END
cd app
npm install --offline --no-audit --no-fund --install-links=false --foreground-scripts
npm test --silent
npm ci --offline --no-audit --no-fund
test -s ../left/installed
echo "npm done"
