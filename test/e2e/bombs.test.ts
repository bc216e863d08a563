/** Builds that take too much, on a whole node and by way of the client: each ends with its reason, and the node goes on. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openMesh, submitted } from './meshes.ts'

/** What each bomb must end with: its code, and what is said of it. */
const BOMBS: Readonly<
  Record<string, { readonly code: string; readonly says: RegExp; readonly derivation: string }>
> = {
  forks: {
    code: 'MESH0402',
    says: /tried to have more than \d+ processes and was killed/,
    derivation: `args = ["-c", 'bomb() { bomb | bomb & }; bomb; sleep 100']`,
  },
  memory: {
    code: 'MESH0404',
    says: /want of memory: it may have/,
    derivation: `args = ["-c", "perl -e 'my @all; push @all, q(x) x 1_000_000 while 1'"]
needs = { memory = "64 MiB" }
run = { retries = 0 }`,
  },
  disk: {
    code: 'MESH0402',
    says: /took more of the disk than needs.disk \(20 MiB\) and was killed/,
    derivation: `args = ["-c", 'cat /dev/zero > $TMPDIR/bomb']
needs = { disk = "20 MiB" }`,
  },
  output: {
    code: 'MESH0402',
    says: /made more outputs than run.max-output \(4 MiB\) and was killed/,
    derivation: `args = ["-c", 'head -c 8000000 /dev/zero > $out']
run = { max-output = "4 MiB" }`,
  },
  holes: {
    code: 'MESH0402',
    says: /made more outputs than run.max-output/,
    derivation: `args = ["-c", 'truncate -s 8T $out']
run = { max-output = "1 GiB" }`,
  },
  log: {
    code: 'MESH0402',
    says: /printed more than run.max-log \(64 KiB\) and was killed/,
    derivation: `args = ["-c", 'yes']
run = { max-log = "64 KiB" }`,
  },
  silence: {
    code: 'MESH0402',
    says: /printed nothing for run.max-silent \(1 s\) and was killed/,
    derivation: `args = ["-c", 'sleep 1000']
run = { max-silent = "1s" }`,
  },
  pipe: {
    code: 'MESH0408',
    says: /is a pipe/,
    derivation: `args = ["-c", 'mkdir $out && mkfifo $out/pipe']`,
  },
  name: {
    code: 'MESH0408',
    says: /UTF-8/,
    derivation: `args = ["-c", 'mkdir $out && : > "$out/$(printf "a\\\\377")"']`,
  },
  deep: {
    code: 'MESH0408',
    says: /deep|levels|long/i,
    derivation: `args = ["-c", 'mkdir $out; cd $out; i=0; while [ $i -lt 200 ]; do mkdir d; cd d; i=$((i+1)); done']`,
  },
}

test(
  'bombs: each ends with its own reason, and the node builds on',
  { timeout: 240_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const alone = await mesh.start({ name: 'alone', role: 'root,worker,store', cpus: 2 })
    const desk = mesh.desk(alone)
    const [node] = await desk.untilReady('alone')
    if (node?.environments.every(({ isolation }) => isolation !== 'namespace') === true)
      return t.skip('this machine lets no sandbox be made')
    const graph = Object.entries(BOMBS)
      .map(([name, { derivation }]) => `[derivation.${name}]\nbuilder = "/bin/sh"\n${derivation}\n`)
      .join('\n')
    desk.write('bombs.mesh.toml', `mesh = 1\n${graph}`)
    desk.write(
      'calm.mesh.toml',
      `mesh = 1
[derivation.links]
builder = "/bin/sh"
args = ["-c", 'mkdir $out; ln -s /etc/shadow $out/shadow; ln -s ../../.. $out/up; echo x > $out/x; chmod 4755 $out/x; ln $out/x $out/y; printf "a\\nb" > "$out/a b"; chmod 0 $out/x; true']
[derivation.link]
builder = "/bin/sh"
args = ["-c", 'ln -s /etc/shadow $out']
[derivation.holder]
builder = "/bin/sh"
args = ["-c", '(setsid sleep 1000 &); nohup sleep 1000 > /dev/null 2>&1 & echo held > $out']
`,
    )
    const bombs = await desk.mesh('submit', '-k', 'bombs.mesh.toml', '--json')
    assert.equal(bombs.code, 1, bombs.stderr)
    const { failures } = submitted(bombs)
    for (const [name, { code, says }] of Object.entries(BOMBS)) {
      const failure = failures.find((each) => each.name === name)
      assert.deepEqual([name, failure?.code], [name, code], failure?.message)
      assert.match(failure?.message ?? '', says, name)
    }
    const calm = await desk.mesh('submit', 'calm.mesh.toml')
    assert.equal(calm.code, 0, calm.stderr)
    assert.equal(desk.read('result/holder'), 'held\n')
    assert.equal(desk.read('result/links/y'), 'x\n')
  },
)
