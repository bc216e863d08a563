/** Logs as people look at them: from any node, in part, of failures, through restarts, and what is kept of them. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { z } from 'zod'
import {
  freePort,
  openMesh,
  submitted,
  tcp,
  until,
  type Daemon,
  type Desk,
  type Mesh,
} from './meshes.ts'

let mesh: Mesh
let root: Daemon
let worker: Daemon
let desk: Desk
let leaf: Desk

before(async () => {
  mesh = await openMesh()
  root = await mesh.start({ name: 'root', role: 'root' })
  const middle = await mesh.start({ name: 'middle', role: 'store', parents: [root] })
  ;[worker] = await Promise.all([
    mesh.start({
      name: 'w1',
      role: 'worker',
      listen: 'none',
      cpus: 2,
      parents: [middle],
      args: ['--isolation', 'host'],
    }),
    mesh.start({ name: 'leaf', role: 'client', parents: [root] }),
  ]).then(([w1, other]) => {
    leaf = mesh.desk(other)
    return [w1]
  })
  desk = mesh.desk(root)
  await desk.untilReady('w1')
})

after(async () => {
  await mesh[Symbol.asyncDispose]()
})

const plain = (name: string, script: string): string =>
  `[derivation."${name}"]\nbuilder = "/bin/sh"\nargs = ["-c", '''${script}''']\nsealed = false\n`

const graph = (...derivations: readonly string[]): string => `mesh = 1\n${derivations.join('\n')}`

const Line = z.object({
  request: z.string(),
  job: z.string(),
  name: z.string(),
  attempt: z.string(),
  n: z.number(),
  node: z.string(),
  peerId: z.string(),
  host: z.string(),
  arch: z.string(),
  platform: z.string(),
  environment: z.string(),
  at: z.string(),
  stream: z.string(),
  offset: z.number().nullable(),
  text: z.string(),
})

const linesOf = (stdout: string): z.infer<typeof Line>[] =>
  stdout
    .trim()
    .split('\n')
    .map((line) => Line.parse(JSON.parse(line)))

test(
  'log-views: parts of a log, live and finished, by every name and from a leaf',
  { timeout: 90_000 },
  async () => {
    const gate = join(mesh.directory, 'gate-parts')
    const script = `for i in 1 2 3 4 5 6 7 8 9 10; do echo "line $i"; done; echo "odd error" >&2; printf "\\033[31mred\\033[0m\\033]0;title\\007\\n"; until [ -e ${gate} ]; do sleep 0.05; done; echo last; exit 3`
    leaf.write('parts.mesh.toml', graph(plain('parts', script)))
    const submitting = leaf.follow('submit', 'parts.mesh.toml', '--json')
    const { id, request } = await leaf.untilJob('parts', 'building')
    await until('all lines', async () => {
      const { stdout } = await leaf.mesh('logs', id)
      return stdout.includes('red') && stdout.includes('odd') ? true : undefined
    })
    assert.equal(
      (await leaf.mesh('logs', id, '--tail', '2', '--stream', 'stdout')).stdout,
      'line 10\nred\n',
    )
    assert.equal((await leaf.mesh('logs', id, '--grep', 'line [13]$')).stdout, 'line 1\nline 3\n')
    assert.equal((await leaf.mesh('logs', id, '--grep', 'ERROR', '-i')).stdout, 'odd error\n')
    assert.equal((await leaf.mesh('logs', id, '--stream', 'stderr')).stdout, 'odd error\n')
    assert.equal(
      (await leaf.mesh('logs', id, '--since', '1h', '--grep', '^line 7')).stdout,
      'line 7\n',
    )
    const following = leaf.follow('logs', '-f', id, '--grep', 'line 2|last|failed')
    await until('what is found so far', async () =>
      following.output.stdout === 'line 2\n' ? true : undefined,
    )
    writeFileSync(gate, '')
    const followed = await following.ended
    assert.deepEqual(
      [followed.code, followed.stdout],
      [0, 'line 2\nlast\nmesh: failed: exit 3 (MESH0401)\n'],
      followed.stderr,
    )
    assert.equal((await submitting.ended).code, 1)

    // Finished: the same from a node that neither ran nor owns it, by every name.
    const job = await leaf.job('parts')
    const attempt = job.attempts[0]
    assert(attempt !== undefined)
    const whole = (await leaf.mesh('logs', id)).stdout
    assert.match(whole, /last\nmesh: failed: exit 3 \(MESH0401\)\n$/)
    for (const name of [
      request,
      `${request}/parts`,
      'parts',
      attempt.id,
      `${id}#1`,
      `${request}/parts#1`,
    ])
      assert.equal((await leaf.mesh('logs', name)).stdout, whole, name)
    assert.equal(
      (await desk.mesh('logs', id, '--tail', '1')).stdout,
      'mesh: failed: exit 3 (MESH0401)\n',
    )
    assert.equal(
      (await leaf.mesh('logs', id, '--stream', 'mesh')).stdout,
      'mesh: failed: exit 3 (MESH0401)\n',
    )
    assert.equal((await leaf.mesh('logs', `${id}#7`)).code, 5)
    const bad = await leaf.mesh('logs', id, '--grep', '(')
    assert.deepEqual([bad.code, /--grep "\(": .*Unterminated group/.test(bad.stderr)], [2, true])

    // Every line says whose it is, and where to go on.
    const lines = linesOf((await leaf.mesh('logs', id, '--json')).stdout)
    const { text: _text, at: _at, stream: _stream, offset, ...head } = lines[0] ?? {}
    assert.deepEqual(
      { ...head, atMs: undefined },
      {
        request,
        job: id,
        name: 'parts',
        attempt: attempt.id,
        n: 1,
        node: 'w1',
        peerId: worker.file.peerId,
        host: attempt.host,
        arch: 'x86_64',
        platform: 'linux',
        environment: attempt.environment,
        atMs: undefined,
      },
    )
    const rest = linesOf((await leaf.mesh('logs', id, '--json', '--offset', `${offset}`)).stdout)
    assert.deepEqual(
      rest.map(({ text }) => text),
      lines.slice(1).map(({ text }) => text),
    )
    // The store has what was printed; a file gets no escapes but on demand.
    assert(lines.some(({ text }) => text.includes('\x1b]0;title\x07')))
    assert(!whole.includes('\x1b'))
    assert(
      (await leaf.mesh('logs', id, '--raw')).stdout.includes('\x1b[31mred\x1b[0m\x1b]0;title\x07'),
    )
  },
)

test(
  'log-views: all that failed of a request, and nothing of another with the same names',
  { timeout: 90_000 },
  async () => {
    const odd = '+A.b-c_9'
    const run = async (mark: string): Promise<string> => {
      desk.write(
        'fail.mesh.toml',
        graph(
          plain(odd, `echo ${mark} odd; exit 7`),
          plain('missing', `echo ${mark} missing`),
          plain('fine', `echo ${mark} fine; echo > $out`),
        ),
      )
      const ended = await desk.mesh('submit', 'fail.mesh.toml', '--keep-going', '--json')
      assert.equal(ended.code, 1, ended.stderr)
      return submitted(ended).request
    }
    const first = await run('first')
    const second = await run('second')
    for (const [request, mark] of [
      [first, 'first'],
      [second, 'second'],
    ] as const) {
      assert.equal((await desk.mesh('logs', `${request}/fine`)).stdout, `${mark} fine\n`)
      const { stdout } = await leaf.mesh('logs', request, '--failed')
      assert.equal(stdout.split('\n').filter((line) => line.startsWith('==> ')).length, 2, stdout)
      assert.match(
        stdout,
        new RegExp(
          `==> ${request}/\\+A\\.b-c_9 .* w1 .* failed: MESH0401: exit 7 <==\n${mark} odd\nmesh: failed: exit 7 \\(MESH0401\\)\n`,
        ),
      )
      assert.match(
        stdout,
        new RegExp(
          `${mark} missing\nmesh: failed: the builder ended with 0 but did not create \\$out; .*\\(MESH0403\\)\n`,
        ),
      )
    }
    assert.match((await desk.mesh('logs', first, '--failed')).stdout, /first odd/)
  },
)

test(
  'log-views: --keep-failed keeps the directory, which can be brought and run again',
  { timeout: 90_000 },
  async () => {
    const script =
      'echo data > kept.txt; mkfifo pipe; echo half > $out; echo "$TOKEN $in" >&2; cat $input; exit 4'
    leaf.write('input.txt', 'the input\n')
    leaf.write(
      'keep.mesh.toml',
      `${graph(plain('keep', script))}inputs.input = { path = "./input.txt" }\nenv = { TOKEN = "it's \\"quoted\\"", in = "/build/in" }\n`,
    )
    const ended = await leaf.mesh('submit', 'keep.mesh.toml', '--keep-failed', '--json')
    assert.equal(ended.code, 1, ended.stderr)
    const cid = z.string().parse(submitted(ended).failures[0]?.['kept'])
    const got = await leaf.mesh('get', cid, '-o', 'kept')
    assert.equal(got.code, 0, got.stderr)
    assert.equal(leaf.read('kept/work/kept.txt'), 'data\n')
    assert.equal(leaf.read('kept/out/out'), 'half\n')
    assert.match(
      leaf.read('kept/mesh-left-out.txt'),
      /work\/pipe {2}it is no file, directory or link/,
    )
    assert.match((await leaf.mesh('logs', 'keep')).stdout, new RegExp(`mesh get ${cid} -o DIR\n$`))
    const place = join(leaf.directory, 'kept')
    execFileSync('chmod', ['-R', 'u+w', place])
    execFileSync('mkdir', ['-p', join(place, 'in')])
    writeFileSync(join(place, 'in/input'), 'the input\n')
    const again = spawnSync(join(place, 'mesh-rerun.sh'), { encoding: 'utf8' })
    assert.equal(again.status, 4, again.stderr)
    assert.match(again.stderr, new RegExp(`it's "quoted" ${place}/in`))
    assert.equal(again.stdout, 'the input\n')
    // Nothing is kept where nobody asked, and the key is the same.
    const without = await leaf.mesh('submit', 'keep.mesh.toml', '--json')
    assert.equal(submitted(without).failures[0]?.['kept'], undefined)
    const told = await leaf.mesh('submit', 'keep.mesh.toml', '--keep-failed', '--progress', 'plain')
    assert.match(told.stderr, /what it left is kept: mesh get bafy\w+ -o DIR/)
  },
)

test('log-views: a reader outlives the restart of his own node', { timeout: 90_000 }, async (t) => {
  const port = await freePort()
  const start = (): Promise<Daemon> =>
    mesh.start({ name: 'dev', role: 'client', parents: [root], listen: tcp(port) })
  const dev = await start()
  const gate = join(mesh.directory, 'gate-restart')
  const script = `i=0; until [ -e ${gate} ]; do i=$((i + 1)); echo "count $i"; sleep 0.02; done; echo > $out`
  desk.write('count.mesh.toml', graph(plain('count', script)))
  const submitting = desk.follow('submit', 'count.mesh.toml', '--json')
  await desk.untilJob('count', 'building')
  const reader = mesh.desk(dev)
  const following = reader.follow('logs', '-f', 'count')
  const searching = reader.follow('logs', '-f', 'count', '--grep', '0$')
  await until('some lines', async () =>
    following.output.stdout.includes('count 20\n') && searching.output.stdout.includes('count 20\n')
      ? true
      : undefined,
  )
  await dev.kill()
  await start()
  const linesBefore = following.output.stdout.split('\n').length
  await until('more lines', async () =>
    following.output.stdout.split('\n').length > linesBefore + 20 ? true : undefined,
  )
  writeFileSync(gate, '')
  assert.equal((await submitting.ended).code, 0)
  const whole = (await desk.mesh('logs', 'count')).stdout
  assert.deepEqual([(await following.ended).stdout, t.signal.aborted], [whole, false])
  assert.equal((await searching.ended).stdout, whole.replaceAll(/^.*[1-9]\n/gm, ''))
})

test(
  'log-views: who follows a job goes on with its next attempt, and is told what is lost',
  { timeout: 120_000 },
  async () => {
    const gate = join(mesh.directory, 'gate-lost')
    const start = (): Promise<Daemon> =>
      mesh.start({
        name: 'w2',
        role: 'worker',
        listen: 'none',
        cpus: 1,
        parents: [root],
        args: ['--isolation', 'host'],
      })
    const doomed = await start()
    await desk.untilReady('w2')
    assert.equal((await desk.mesh('drain', 'w1')).code, 0)
    const script = `echo "on $MESH_NODE"; if [ "$MESH_NODE" = w2 ]; then sleep 1000; fi; until [ -e ${gate} ]; do sleep 0.05; done; echo > $out`
    desk.write('lost.mesh.toml', graph(plain('lost', script)))
    const submitting = desk.follow('submit', 'lost.mesh.toml', '--json')
    await desk.untilJob('lost', 'building')
    const following = leaf.follow('logs', '-f', 'lost')
    await until('the first line', async () =>
      following.output.stdout === 'on w2\n' ? true : undefined,
    )
    assert.equal((await desk.mesh('undrain', 'w1')).code, 0)
    await doomed.kill()
    writeFileSync(gate, '')
    assert.equal((await submitting.ended).code, 0)
    const { stdout } = await following.ended
    assert.match(
      stdout,
      /^on w2\nmesh: the log breaks off at byte \d+: .*; attempt \d+ on w2: lost, .*\n==> .* attempt \d+ .*<==\non w1\n$/,
    )
    // A lease that a node in the middle gave back before counts as an attempt as well.
    const n = /attempt (\d+) on w2/.exec(stdout)?.[1]
    // Back again, it has the log of what it ran.
    await start()
    await desk.untilReady('w2')
    assert.equal(
      (await leaf.mesh('logs', `lost#${n}`)).stdout,
      'on w2\nmesh: lost: its node was killed or restarted while it ran (MESH0505)\n',
    )
    assert.match(
      readFileSync(join(mesh.directory, 'w2', 'attempts.ndjson'), 'utf8'),
      /"end":"lost"/,
    )
  },
)
