/** A sealed build on a whole node: what it can reach of the machine, of the store and of other builds. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { openMesh } from './meshes.ts'

/** Tells on stdout whatever works that must not. */
const snoop = (data: string): string => `
could() { echo "could $1"; }
for place in ${data} ${data}/store ${data}/store/blob ${data}/build ${data}/trees / /usr /etc /bin /build /build/in /proc /proc/sys; do
  (echo planted > $place/planted) 2> /dev/null && could "write into $place"
done
for path in ${data} ${data}/node.json ${data}/identity.key /root /home/*; do [ -e $path ] && could "see $path"; done
for path in $file $tree/inner; do
  (echo planted >> $path) 2> /dev/null && could "append to $path"
  chmod 777 $path 2> /dev/null && could "chmod $path"
  rm -f $path 2> /dev/null && could "remove $path"
  mv $path /build/work/moved 2> /dev/null && could "move $path"
done
(echo planted > $tree/planted) 2> /dev/null && could "write into an input"
mount -o remount,rw / 2> /dev/null && could "remount"
ls /proc | grep -q '^[0-9]' || could "not see itself"
for pid in /proc/[0-9]*; do
  grep -q neighbour $pid/cmdline 2> /dev/null && [ $pid != /proc/$$ ] && could "see the neighbour $pid"
done
kill -9 -1 2> /dev/null
echo done > $out
`
const connect = (port: string): string =>
  `bash -c "exec 3<>/dev/tcp/127.0.0.1/${port}" 2> /dev/null && echo reached > $out || echo not reached > $out`

test(
  'isolation: a sealed build reaches nothing that was not declared',
  { timeout: 120_000 },
  async (t) => {
    process.env['OUTER_SECRET'] = 'the environment of the daemon'
    t.after(() => delete process.env['OUTER_SECRET'])
    await using mesh = await openMesh(t)
    const alone = await mesh.start({ name: 'alone', role: 'root,worker,store', cpus: 2 })
    const desk = mesh.desk(alone)
    const [node] = await desk.untilReady('alone')
    if (node?.environments.every(({ isolation }) => isolation !== 'namespace') === true) {
      t.skip('this machine lets no sandbox be made')
      return
    }
    desk.write('file', 'file\n')
    desk.write('tree/inner', 'inner\n')
    const port = new URL(alone.file.http).port
    desk.write(
      'graph.mesh.toml',
      `mesh = 1
[derivation.neighbour]
builder = "/bin/sh"
args = ["-c", "sleep 2; ls -R / 2> /dev/null | grep planted; echo done > $out", "neighbour"]
[derivation.snoop]
builder = "/bin/sh"
args = ["-c", '''${snoop(alone.directory)}''']
inputs.file = { path = "./file" }
inputs.tree = { path = "./tree" }
[derivation.offline]
builder = "/bin/sh"
args = ["-c", '${connect(port)}; sleep 0']
[derivation.online]
builder = "/bin/sh"
args = ["-c", '${connect(port)}']
network = true
[derivation.environment]
builder = "/usr/bin/env"
outputs = ["none"]
[derivation.variables]
builder = "/bin/sh"
args = ["-c", 'tr "\\0" "\\n" < /proc/$$/environ | sort > $out']
env = { OWN = "mine" }
`,
    )
    const ended = await desk.mesh('submit', '-k', 'graph.mesh.toml')
    assert.equal(ended.code, 1, ended.stderr)
    for (const name of ['snoop', 'neighbour'])
      assert.equal((await desk.mesh('logs', name)).stdout, '', name)
    assert.deepEqual(
      [desk.read('result/snoop'), desk.read('result/neighbour')],
      ['done\n', 'done\n'],
    )
    assert.equal(desk.read('result/offline'), 'not reached\n')
    assert.equal(desk.read('result/online'), 'reached\n', 'with a network the same port is there')
    const variables = Object.fromEntries(
      desk
        .read('result/variables')
        .trim()
        .split('\n')
        .map((line) => line.split('=', 2)),
    )
    const { MESH_JOB, MESH_SYSTEM, BUILDTOKEN, MAKEFLAGS, CARGO_MAKEFLAGS, ...rest } = variables
    assert.match(BUILDTOKEN ?? '', /^\d+-[0-9a-f]{24}$/)
    assert.match(MAKEFLAGS ?? '', /--jobserver-auth/)
    assert.equal(CARGO_MAKEFLAGS, MAKEFLAGS)
    assert.match(MESH_JOB ?? '', /^j-/)
    assert.match(MESH_SYSTEM ?? '', /-linux$/)
    assert.deepEqual(rest, {
      BUILDSOCKET: '/build/control/buildsocket',
      HOME: '/build/home',
      LC_ALL: 'C',
      MESH_JOBS: '1',
      MESH_JOBS_FILE: '/build/control/jobs',
      MESH_NODE: 'alone',
      NIX_BUILD_CORES: '1',
      OWN: 'mine',
      PATH: '/usr/bin:/bin',
      TMPDIR: '/build/tmp',
      TZ: 'UTC',
      out: '/build/out/out',
    })
    assert.doesNotMatch((await desk.mesh('logs', 'environment')).stdout, /OUTER_SECRET|MESH_SOCKET/)

    // Every blob is still what its name says.
    const blobs = join(alone.directory, 'store', 'blob')
    const files = readdirSync(blobs, { recursive: true, encoding: 'utf8' }).map((name) =>
      join(blobs, name),
    )
    const blobFiles = files.filter((path) => statSync(path).isFile())
    assert(blobFiles.length > 5)
    for (const path of blobFiles)
      assert.equal(
        createHash('sha256').update(readFileSync(path)).digest('hex'),
        path.split('/').at(-1),
      )
    assert.equal(desk.read('file'), 'file\n')
  },
)
