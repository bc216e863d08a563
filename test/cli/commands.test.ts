/** The commands end to end: bin/mesh as a process, against a daemon in little. */
import assert from 'node:assert/strict'
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { test } from 'node:test'
import { cidOf, sha256 } from '../../src/wire/digest.ts'
import { FakeDaemon, PEER_ID } from './fake-daemon.ts'
import { MESH, Workplace } from './mesh-process.ts'

/** Of util-linux: runs a command on a terminal. */
const PTY_TOOL = 'script'

const HELLO = `mesh = 1
[derivation.hello]
builder = "/bin/sh"
args = ["-eu", "-c", "mkdir $out; cat $name > $out/greeting; chmod +x $out/greeting; echo building; echo careful >&2"]
inputs.name = { path = "./name.txt" }
[derivation.test]
builder = "/bin/sh"
args = ["-eu", "-c", "cat $hello/greeting > $out"]
inputs.hello = { output = "hello.out" }
`
const here = (daemon: FakeDaemon): string[] => ['--data', daemon.directory]

function helloPlace(): Workplace {
  const place = new Workplace()
  place.write('hello.mesh.toml', HELLO)
  place.write('name.txt', 'world\n')
  return place
}

test('submit: builds, lays the output out, and tells what was done', async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  const ended = await place.mesh('submit', 'hello.mesh.toml', ...here(daemon))
  assert.equal(ended.code, 0, ended.stderr)
  assert.equal(ended.stdout, 'result/test\n')
  assert.equal(readFileSync(join(place.directory, 'result/test'), 'utf8'), 'world\n')
  assert.match(ended.stderr, /^\d{4}-\S+Z ✔ done {3}hello .* ci-a$/m)
  assert.match(ended.stderr, /r-\w+ done in .*: 2 built, 0 cached, 0 failed\n/)
  assert.match(ended.stderr, /built on {3}ci-a 2; ran locally: 2\n/)
  assert.match(ended.stderr, /through the root: 0 B\n/)
})

test('submit: --json is the last line and holds the contract; the second time all is cached', async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  const args = [
    'submit',
    'hello.mesh.toml',
    '-A',
    'hello',
    '-A',
    'test',
    '--json',
    '-o',
    'out',
    ...here(daemon),
  ]
  const first = JSON.parse((await place.mesh(...args)).stdout)
  assert.deepEqual(Object.keys(first), [
    'v',
    'request',
    'state',
    'jobs',
    'outputs',
    'replicas',
    'bytes',
    'wallMs',
    'serialMs',
    'ranLocally',
    'failures',
  ])
  assert.deepEqual(first.jobs, { built: 2, cached: 0, failed: 0, cancelled: 0 })
  assert.deepEqual(first.outputs.test.out, {
    cid: cidOf(sha256('world\n')),
    kind: 'file',
    executable: false,
  })
  assert.equal(first.outputs.hello.out.kind, 'dir')
  assert.equal(lstatSync(join(place.directory, 'out/hello/greeting')).mode & 0o100, 0o100)
  const again = JSON.parse((await place.mesh(...args)).stdout)
  assert.deepEqual(again.jobs, { built: 0, cached: 2, failed: 0, cancelled: 0 })
})

test('submit: replaces what an earlier submit wrote, and nothing else', async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  const submit = (): Promise<{ code: number; stderr: string }> =>
    place.mesh('submit', 'hello.mesh.toml', ...here(daemon))
  assert.equal((await submit()).code, 0)
  place.write('name.txt', 'moon\n')
  assert.equal((await submit()).code, 0)
  assert.equal(readFileSync(join(place.directory, 'result/test'), 'utf8'), 'moon\n')
  place.write('result/test', 'mine\n')
  place.write('name.txt', 'sun\n')
  const refused = await submit()
  assert.equal(refused.code, 2)
  assert.match(refused.stderr, /error\[MESH0209\].*result\/test was changed since/)
  assert.equal(readFileSync(join(place.directory, 'result/test'), 'utf8'), 'mine\n')
  using other = helloPlace()
  mkdirSync(join(other.directory, 'result'))
  other.write('result/test', 'mine\n')
  const before = daemon.requests.size
  const early = await other.mesh('submit', 'hello.mesh.toml', ...here(daemon))
  assert.equal(early.code, 2)
  assert.match(early.stderr, /was not written by mesh submit/)
  assert.equal(daemon.requests.size, before, 'refused before anything is built')
  assert.deepEqual(readdirSync(join(other.directory, 'result')), ['test'])
})

test('submit: a failure shows its log at the end and exits with 1; under --json too', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  place.write(
    'bad.mesh.toml',
    'mesh = 1\n[derivation.bad]\nbuilder = "/bin/sh"\nargs = ["-c", "echo one; printf \'\\u001b[2Jtwo\\\\n\' >&2; exit 3"]\n',
  )
  const ended = await place.mesh('submit', 'bad.mesh.toml', ...here(daemon))
  assert.equal(ended.code, 1)
  assert.match(
    ended.stderr,
    /✘ error\[MESH0401\]: bad on ci-a: exit 3 after \d+ ms\n {3}\| one\n {3}\| two\n {3}full log: mesh logs j-\w+ {3}explained: mesh explain MESH0401\n/,
  )
  assert.ok(!ended.stderr.includes('\x1b'))
  const json = await place.mesh(
    'submit',
    'bad.mesh.toml',
    '--json',
    '--progress',
    'quiet',
    ...here(daemon),
  )
  assert.equal(json.code, 1)
  assert.equal(json.stderr, '')
  const { state, failures } = JSON.parse(json.stdout)
  assert.equal(state, 'failed')
  assert.equal(failures[0].code, 'MESH0401')
})

test('submit: folds the log of a failure under GitHub Actions', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace({ GITHUB_ACTIONS: 'true' })
  place.write(
    'bad.mesh.toml',
    'mesh = 1\n[derivation.bad]\nbuilder = "/bin/sh"\nargs = ["-c", "echo ::error::x; exit 3"]\n',
  )
  const { stderr } = await place.mesh('submit', 'bad.mesh.toml', ...here(daemon))
  assert.match(stderr, /^::group::log of bad\n {3}\| ::error::x\n::endgroup::$/m)
})

test('submit: --detach prints only the id; logs -f, jobs and get take it from there', async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  daemon.hold = { class: 'unsatisfiable', text: 'no node has it' }
  const { stdout, code } = await place.mesh('submit', '-d', 'hello.mesh.toml', ...here(daemon))
  assert.equal(code, 0)
  assert.match(stdout, /^r-[a-z0-9]{12}\n$/)
  const id = stdout.trim()
  assert.ok(!existsSync(join(place.directory, 'result')))
  const jobs = JSON.parse((await place.mesh('jobs', '--json', ...here(daemon))).stdout)
  assert.equal(jobs.length, 2)
  assert.deepEqual(jobs[0].why, { class: 'unsatisfiable', text: 'no node has it' })
  const follow = place.start('logs', '-f', `${id}/hello`, ...here(daemon))
  daemon.release()
  assert.equal((await follow.ended).stdout, 'building\ncareful\n')
  const get = await place.mesh('get', id.slice(0, 8), '-o', 'got', ...here(daemon))
  assert.equal(get.code, 0, get.stderr)
  assert.equal(readFileSync(join(place.directory, 'got'), 'utf8'), 'world\n')
  const twice = await place.mesh('get', id, '-o', 'got', ...here(daemon))
  assert.equal(twice.code, 2)
  assert.match(twice.stderr, /error\[MESH0209\]/)
})

test('submit: ^C cancels in order and exits with 8', async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  daemon.hold = { class: 'unsatisfiable', text: 'no node has it' }
  const { child, ended } = place.start('submit', 'hello.mesh.toml', ...here(daemon))
  let stderr = ''
  assert.ok(child.stderr)
  for await (const piece of child.stderr) {
    stderr += String(piece)
    if (stderr.includes('no node has it')) {
      child.kill('SIGINT')
      break
    }
  }
  const { code } = await ended
  assert.equal(code, 8)
  assert.equal([...daemon.requests.values()][0]?.view.state, 'cancelled')
})

test('submit: a lost connection to the daemon is bridged', async () => {
  await using daemon = await FakeDaemon.start()
  daemon.breakEvents = true
  using place = helloPlace()
  const ended = await place.mesh('submit', 'hello.mesh.toml', ...here(daemon))
  assert.equal(ended.code, 0, ended.stderr)
  assert.match(ended.stderr, /connection to the daemon was lost; the request goes on/)
  assert.equal(ended.stderr.match(/✔ done {3}hello/g)?.length, 1)
})

test('submit: a daemon that restarts is waited for', { timeout: 60_000 }, async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  daemon.hold = { class: 'unsatisfiable', text: 'no node has it' }
  const { child, ended } = place.start('submit', 'hello.mesh.toml', ...here(daemon))
  await new Promise<void>((seen) =>
    child.stderr?.on('data', (bytes: Buffer) => {
      if (bytes.includes('no node has it')) seen()
    }),
  )
  await daemon.stop()
  await new Promise<void>((seen) =>
    child.stderr?.on('data', (bytes: Buffer) => {
      if (bytes.includes('connection to the daemon was lost')) seen()
    }),
  )
  await daemon.listen()
  daemon.release()
  assert.equal((await ended).code, 0)
})

test(
  'submit: on a terminal there is a live region, and d detaches',
  {
    timeout: 60_000,
    skip:
      spawnSync(PTY_TOOL, ['--version']).error === undefined
        ? false
        : 'the tool "script" is absent',
  },
  async () => {
    await using daemon = await FakeDaemon.start()
    using place = helloPlace()
    daemon.hold = { class: 'unsatisfiable', text: 'no node has it' }
    const child = spawn(
      PTY_TOOL,
      ['-qec', `${MESH} submit hello.mesh.toml --data ${daemon.directory}`, '/dev/null'],
      {
        cwd: place.directory,
        env: { ...place.env, TERM: 'xterm' },
      },
    )
    let screen = ''
    child.stdout.on('data', (bytes: Buffer) => {
      const wasShown = screen.includes('[d] detach')
      screen += bytes.toString()
      if (!wasShown && screen.includes('[d] detach')) child.stdin.write('d')
    })
    const [code] = await once(child, 'close')
    assert.equal(code, 0, screen)
    assert.match(screen, /hello +waiting {2}no node has it/)
    assert.ok(screen.endsWith(`${[...daemon.requests.keys()][0]}\r\n`), JSON.stringify(screen))
    assert.equal([...daemon.requests.values()][0]?.view.state, 'running')
    assert.deepEqual(daemon.left, [...daemon.requests.keys()])
  },
)

test('submit: --dry-run, --progress json and --priority', async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  const dry = await place.mesh('submit', '--dry-run', 'hello.mesh.toml', ...here(daemon))
  assert.deepEqual(dry.stdout.split('\n'), [
    '0 cached, 2 to build (1 may turn out to be cached)',
    '',
    'STATE    DERIVATION  INPUTS  TIMEOUT  NODES',
    'build    hello        1 KiB    1h00m  ci-a',
    'unknown  test         1 KiB    1h00m  ci-a',
    '',
    'critical path: hello -> test',
    '',
  ])
  assert.equal(daemon.requests.size, 0)
  const events = await place.mesh(
    'submit',
    '--progress=json',
    '--priority',
    '70',
    'hello.mesh.toml',
    ...here(daemon),
  )
  const types = events.stderr
    .trim()
    .split('\n')
    .map((line): unknown => JSON.parse(line).type)
  assert.equal(types[0], 'request')
  assert.equal(types.at(-1), 'end')
  const bad = await place.mesh('submit', '--priority', '101', 'hello.mesh.toml', ...here(daemon))
  assert.equal(bad.code, 2)
})

test('submit: a generator in TypeScript, with the API of the mesh that runs it', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  place.write('src/a.h', '#define A 1\n')
  place.write('src/deep/b.h', '#define B 2\n')
  place.write('src/c.c', 'int c;\n')
  place.write(
    'graph.ts',
    `import { defineGraph, files, path } from '@buildmesh/mesh/api'
    export default defineGraph((g) => {
      const headers = path('src', { include: ['**/*.h'] })
      const list = g.derivation('list', {
        builder: '/bin/sh',
        args: ['-c', 'cd $headers && find . -type f | sort > $all; cat $mixed/x/c.c > $one'],
        outputs: ['all', 'one'],
        inputs: { headers, mixed: files({ 'x/c.c': path('src/c.c'), h: headers }) },
      })
      g.derivation('join', { builder: '/bin/sh', args: ['-c', 'cat $a $b > $out'], inputs: { a: list.all, b: list.one } })
    })`,
  )
  const ended = await place.mesh('submit', 'graph.ts', ...here(daemon))
  assert.equal(ended.code, 0, ended.stderr)
  assert.equal(
    readFileSync(join(place.directory, 'result/join'), 'utf8'),
    './a.h\n./deep/b.h\nint c;\n',
  )
})

test('run: stdout, stderr and the exit code are those of the command, also from the cache', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  const words = [
    'run',
    ...here(daemon),
    '--',
    'sh',
    '-c',
    `printf 'a\\000b'; printf 'it'"'"'s %s' "$1" >&2`,
    'sh',
    `"q" $x`,
  ]
  for (const round of ['built', 'cached']) {
    const ended = await place.mesh(...words)
    assert.equal(ended.code, 0, round)
    assert.deepEqual(ended.stdoutBytes, Buffer.from('a\0b'), round)
    assert.equal(ended.stderr, `it's "q" $x`, round)
  }
  const codes: [string[], number][] = [
    [['sh', '-c', 'exit 42'], 42],
    [['sh', '-c', 'kill -TERM $$'], 143],
    [['no-such-program'], 127],
    [['./data.txt'], 126],
  ]
  place.write('data.txt', 'not a program')
  for (const [command, code] of codes)
    assert.equal(
      (await place.mesh('run', ...here(daemon), '--', ...command)).code,
      code,
      command.join(' '),
    )
})

test(
  'run: what no node can do is said without a terminal as well',
  { timeout: 60_000 },
  async () => {
    await using daemon = await FakeDaemon.start()
    using place = new Workplace()
    daemon.hold = { class: 'unsatisfiable', text: 'no node matches' }
    const { child, ended } = place.start('run', ...here(daemon), '--', 'true')
    let stderr = ''
    await new Promise<void>((seen) =>
      child.stderr?.on('data', (bytes: Buffer) => {
        stderr += bytes.toString()
        if (stderr.includes('no node matches')) seen()
      }),
    )
    daemon.release()
    assert.equal((await ended).code, 0)
    assert.equal(stderr, 'mesh: waiting: no node matches\n')
  },
)

test('run: inputs and outputs stay at their relative paths', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  place.write('src/a.txt', 'a\n')
  place.write('lib/b.txt', 'b\n')
  place.write('lib/tool', '#!/bin/sh\ncat "$@"\n', 0o755)
  const args = ['run', '-i', 'lib', '-o', 'out/joined.txt', '-o', 'dist', ...here(daemon), '--']
  const ended = await place.mesh(
    ...args,
    'sh',
    '-c',
    'mkdir -p dist/x && echo d > dist/x/y && lib/tool "$1" lib/b.txt > out/joined.txt',
    'sh',
    './src/a.txt',
  )
  assert.equal(ended.code, 0, ended.stderr)
  assert.equal(readFileSync(join(place.directory, 'out/joined.txt'), 'utf8'), 'a\nb\n')
  assert.equal(readFileSync(join(place.directory, 'dist/x/y'), 'utf8'), 'd\n')
  assert.ok(readdirSync(place.directory).every((name) => !name.startsWith('.mesh')))
  const missing = await place.mesh('run', '-o', 'never', ...here(daemon), '--', 'true')
  assert.equal(missing.code, 125)
  assert.match(missing.stderr, /did not make never/)
  for (const path of ['/etc/passwd', '../x'])
    assert.equal(
      (await place.mesh('run', '-o', path, ...here(daemon), '--', 'true')).code,
      125,
      path,
    )
})

test('put, get, cat, ls, stat: a directory makes the round trip', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  place.write('tree/bin/tool', '#!/bin/sh\n', 0o755)
  place.write('tree/big', Buffer.alloc(3 * 1024 * 1024, 7))
  symlinkSync('bin/tool', join(place.directory, 'tree/link'))
  const put = await place.mesh('put', 'tree', ...here(daemon))
  assert.match(put.stdout, /^bafyrei[a-z2-7]+\n$/)
  assert.deepEqual(daemon.uploads, { batches: 1, singles: 1 })
  const cid = put.stdout.trim()
  const get = await place.mesh('get', cid, '-o', 'copy', ...here(daemon))
  assert.equal(get.code, 0, get.stderr)
  assert.equal(lstatSync(join(place.directory, 'copy/bin/tool')).mode & 0o111, 0o111)
  assert.equal((await place.mesh('put', 'copy', ...here(daemon))).stdout.trim(), cid)
  assert.deepEqual(daemon.uploads, { batches: 1, singles: 1 }, 'nothing is sent twice')
  assert.equal((await place.mesh('cat', `${cid}/bin/tool`, ...here(daemon))).stdout, '#!/bin/sh\n')
  assert.match(
    (await place.mesh('ls', cid, ...here(daemon))).stdout,
    /^KIND +SIZE +CID +NAME\nfile +3 MiB +bafkrei\w+ +big\ndir .* bin\nsymlink .* link -> bin\/tool\n$/,
  )
  assert.equal(
    JSON.parse((await place.mesh('stat', `${cid}/big`, '--json', ...here(daemon))).stdout).size,
    3 * 1024 * 1024,
  )
  const none = await place.mesh('cat', `${cid}/none`, ...here(daemon))
  assert.equal(none.code, 5)
  const file = await place.mesh('put', 'tree/big', ...here(daemon))
  assert.match(file.stdout, /^bafkrei/)
  assert.equal((await place.mesh('put', 'absent', ...here(daemon))).code, 2)
})

const verdict = (
  requirement: string,
  want: string,
  have: string,
  ok: boolean,
  permanent = true,
) => ({ requirement, want, have, ok, permanent })

test('why: the matrix of requirements and nodes', async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  daemon.hold = { class: 'unsatisfiable', text: 'no node matches' }
  const id = (
    await place.mesh('submit', '-d', 'hello.mesh.toml', '-A', 'hello', ...here(daemon))
  ).stdout.trim()
  daemon.why = {
    v: 1,
    job: `j-${id.slice(2)}0`,
    name: 'hello',
    request: id,
    state: 'waiting',
    class: 'unsatisfiable',
    summary: 'hello waits: no node matches its requirements',
    waitedMs: 192_000,
    nodes: [
      {
        node: 'arm-1',
        state: 'ready',
        verdicts: [
          verdict('system', 'aarch64-linux', 'aarch64-linux', true),
          verdict('memory', '>= 32 GiB', '16 GiB in all', false),
          verdict('state', 'ready', 'ready', true),
        ],
      },
      {
        node: 'ci-a',
        state: 'lost',
        verdicts: [
          verdict('system', 'aarch64-linux', 'x86_64-linux', false),
          verdict('memory', '>= 32 GiB', '1 GiB of 64 GiB free', false, false),
          verdict('state', 'ready', 'lost', false, false),
        ],
      },
    ],
    closest:
      'arm-1 fails 1 of 3 (memory 32 GiB asked, 16 GiB total). This cannot change by waiting.',
    etaMs: null,
    fixes: ['lower needs.memory to 16 GiB or less'],
    asOf: '2026-11-22T10:00:00.000Z',
    unknown: [],
  }
  const { stdout } = await place.mesh('why', id, ...here(daemon))
  assert.deepEqual(stdout.replaceAll(/j-\w+/g, 'j-1').split('\n'), [
    'hello (j-1) has waited 3m 12s: no node matches its requirements.',
    '',
    '  requirement           arm-1             ci-a',
    '  system aarch64-linux  yes               NO x86_64-linux',
    '  memory >= 32 GiB      NO 16 GiB in all  no 1 GiB of 64 GiB free',
    '  state                 ready             lost',
    '',
    'closest: arm-1 fails 1 of 3 (memory 32 GiB asked, 16 GiB total). This cannot change by waiting.',
    'You can:',
    '  - lower needs.memory to 16 GiB or less',
    '',
  ])
  const one = JSON.parse(
    (await place.mesh('why', 'hello', 'ci-a', '--json', ...here(daemon))).stdout,
  )
  assert.deepEqual(
    one.nodes.map(({ node }: { node: string }) => node),
    ['ci-a'],
  )
  assert.equal((await place.mesh('cancel', id, ...here(daemon))).stdout, `${id} is cancelled\n`)
})

test('nodes, status, jobs: tables', async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  const digest = sha256('')
  const environment = {
    system: 'x86_64-linux',
    isolation: 'namespace' as const,
    label: 'debian-12',
    base: digest,
    tools: {},
    features: [],
  }
  const base = {
    peerId: PEER_ID,
    roles: ['worker' as const],
    parent: 'ci-a',
    versions: { mesh: '0.1.0', protocols: [] },
    http: null,
    lastSeenAt: '2026-11-22T10:00:00.000Z',
  }
  daemon.nodes = [
    {
      ...base,
      name: 'ci-a',
      state: 'ready',
      environments: [environment],
      capacity: { cpus: 16, memoryBytes: 64 * 1024 ** 3, diskBytes: 1024 ** 4 },
      allocated: { cpus: 12, memoryBytes: 1024 ** 3, diskBytes: 0 },
      note: '',
    },
    {
      ...base,
      name: 'arm-2',
      state: 'lost',
      environments: [{ ...environment, system: 'aarch64-linux', isolation: 'host' }],
      capacity: { cpus: 8, memoryBytes: 16 * 1024 ** 3, diskBytes: 1024 ** 4 },
      allocated: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
      note: 'a \x1b[31mred\x1b[0m note',
    },
  ]
  const nodes = await place.mesh('nodes', ...here(daemon))
  assert.deepEqual(nodes.stdout.split('\n'), [
    'NODE   STATE  ROLES    CPUS  SYSTEMS        SEALED  MEM FREE  DISK FREE  VERSION  NOTE',
    'arm-2  lost   worker    -/8  aarch64-linux  no             -          -  0.1.0    a red note',
    'ci-a   ready  worker  12/16  x86_64-linux   yes       63 GiB      1 TiB  0.1.0',
    '',
  ])
  assert.equal(JSON.parse((await place.mesh('nodes', '--json', ...here(daemon))).stdout).length, 2)
  const status = await place.mesh('status', ...here(daemon))
  assert.match(status.stdout, /^mesh {2}node ci-a \(12D3KooW\w+\) {2}this node is the root\n/)
  assert.match(status.stdout, /\n! arm-2 was lost 4m ago\n$/)
  await place.mesh('submit', 'hello.mesh.toml', ...here(daemon))
  const jobs = await place.mesh('jobs', ...here(daemon))
  assert.match(
    jobs.stdout,
    /^JOB +REQUEST +STATE +NODE +TIME +NAME\nj-\w+ +r-\w+ +done +ci-a +\S+ +test\n/,
  )
  const requests = await place.mesh('jobs', '--requests', ...here(daemon))
  assert.match(
    requests.stdout,
    /^REQUEST +BY +AGE +STATE +BUILT +CACHED +RUN +WAIT +FAIL +NAME\nr-\w+ +ann +\S+ +done +2 +0 +0 +0 +0 +hello.mesh.toml\n$/,
  )
})

test('logs: with times and streams', async () => {
  await using daemon = await FakeDaemon.start()
  using place = helloPlace()
  await place.mesh('submit', 'hello.mesh.toml', ...here(daemon))
  const timed = await place.mesh('logs', '-t', 'hello', ...here(daemon))
  assert.match(timed.stdout, /^\S+Z stdout building\n\S+Z stderr careful\n$/)
  const lines = (await place.mesh('logs', '--json', 'hello', ...here(daemon))).stdout
    .trim()
    .split('\n')
  assert.deepEqual(
    lines.map((line): unknown => JSON.parse(line).text),
    ['building\n', 'careful\n'],
  )
})

test('errors: of the daemon, of newer daemons, and under --json', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  const none = await place.mesh('jobs', 'r-none', '--json', ...here(daemon))
  assert.equal(none.code, 5)
  assert.deepEqual(JSON.parse(none.stdout), {
    error: { code: 'MESH0601', message: 'no request r-none', hints: [] },
  })
  daemon.problem = {
    status: 503,
    body: { status: 503, code: 'MESH9999', title: 'x', detail: 'from the future', hints: ['wait'] },
  }
  const newer = await place.mesh('status', ...here(daemon))
  assert.equal(newer.code, 75)
  assert.equal(newer.stderr, 'error[MESH9999]: from the future\n  help: wait\n')
})

test('errors: no daemon, a stale node.json, a socket that may not be used', async () => {
  using place = new Workplace()
  const absent = await place.mesh('status', '--json')
  assert.equal(absent.code, 69)
  const { error } = JSON.parse(absent.stdout)
  assert.equal(error.code, 'MESH0101')
  assert.match(
    error.message,
    /data\/mesh\/node.json: no such file \(ENOENT\)\n.*\/var\/lib\/mesh\/node.json/,
  )
  {
    await using daemon = await FakeDaemon.start()
    const file = join(daemon.directory, 'node.json')
    const stale = JSON.parse(readFileSync(file, 'utf8'))
    writeFileSync(file, JSON.stringify({ ...stale, pid: 4_194_304 }))
    const ended = await place.mesh('status', ...here(daemon))
    assert.equal(ended.code, 69)
    assert.match(ended.stderr, /its daemon \(pid 4194304\) is not running any more/)
    assert.equal((await place.mesh('status', '--socket', daemon.socket)).code, 0)
    const gone = await place.mesh(
      'run',
      '--socket',
      join(daemon.directory, 'gone.sock'),
      '--',
      'true',
    )
    assert.equal(gone.code, 69)
  }
})

test('errors: a socket without permission is MESH0102', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  chmodSync(daemon.socket, 0)
  // Root may use every socket unless it gives this power up.
  if (process.getuid?.() === 0)
    place.launcher = ['setpriv', '--bounding-set=-dac_override,-dac_read_search']
  const ended = await place.mesh('status', '--socket', daemon.socket)
  assert.equal(ended.code, 77)
  assert.match(ended.stderr, /error\[MESH0102\]/)
})

test('usage: unknown flags name the two nearest, unknown commands the nearest', async () => {
  using place = new Workplace()
  const flag = await place.mesh('submit', '--keep-gonig', 'x')
  assert.equal(flag.code, 2)
  assert.equal(
    flag.stderr,
    'error[MESH0002]: mesh submit: unknown option --keep-gonig; the nearest are --keep-going and --keep-failed\n',
  )
  assert.match((await place.mesh('jbos')).stderr, /did you mean "mesh jobs"/)
  assert.equal((await place.mesh('why')).code, 2)
  assert.equal(
    (await place.mesh('explain', '401')).stdout.split('\n')[0],
    'MESH0401: a builder failed',
  )
  assert.match((await place.mesh('version')).stdout, /^mesh \d+\.\d+\.\d+ /)
})

test('output: a closed pipe ends mesh quietly', async () => {
  using place = new Workplace()
  const { child } = place.start('explain')
  child.stdout?.destroy()
  const [code] = await once(child, 'exit')
  assert.ok(code === 0 || code === 141, String(code))
})
