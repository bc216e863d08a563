/** Logs across nodes while a build runs, and `mesh run` as if the command ran here. */
import assert from 'node:assert/strict'
import { get } from 'node:http'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { LogDecoder } from '../../src/wire/log-record.ts'
import { openMesh, until, type Daemon, type Desk, type Mesh } from './meshes.ts'

let mesh: Mesh
let dev: Daemon
let desk: Desk

before(async () => {
  mesh = await openMesh()
  const root = await mesh.start({ name: 'root', role: 'root' })
  ;[dev] = await Promise.all([
    mesh.start({ name: 'dev', role: 'client', parents: [root] }),
    mesh.start({
      name: 'w1',
      role: 'worker,store',
      listen: 'none',
      cpus: 2,
      parents: [root],
      args: ['--isolation', 'host'],
    }),
  ])
  desk = mesh.desk(dev)
  await desk.untilReady('w1')
})

after(async () => {
  await mesh[Symbol.asyncDispose]()
})

function readLog(job: string, offset: number): Promise<Buffer> {
  const path = `/api/jobs/${job}/log?offset=${offset}`
  return new Promise((resolve, reject) => {
    get({ socketPath: dev.file.socket, path, agent: false }, (response) => {
      const pieces: Buffer[] = []
      response.on('data', (piece: Buffer) => pieces.push(piece))
      response.once('end', () => resolve(Buffer.concat(pieces)))
      response.once('error', reject)
    }).once('error', reject)
  })
}

test(
  'logs: a running build on another node is followed line by line',
  { timeout: 60_000 },
  async () => {
    const gate = join(mesh.directory, 'gate')
    const script = `echo one; echo two >&2; until [ -e ${gate} ]; do sleep 0.05; done; echo three; echo four >&2; echo > $out`
    desk.write(
      'graph.mesh.toml',
      `mesh = 1\n[derivation.talk]\nbuilder = "/bin/sh"\nargs = ["-c", '${script}']\nsealed = false\n`,
    )
    const submitting = desk.follow('submit', 'graph.mesh.toml', '--json')
    const { id } = await desk.untilJob('talk', 'building')
    const following = desk.follow('logs', '-f', 'talk')
    await until('the first lines', async () =>
      following.output.stdout === 'one\ntwo\n' ? true : undefined,
    )
    // Live, but not waiting for more: what is there so far, and from any offset.
    const soFar = await readLog(id, 0)
    assert.deepEqual(
      new LogDecoder().push(soFar).map(({ stream }) => stream),
      ['stdout', 'stderr'],
    )
    assert.deepEqual(await readLog(id, 13), soFar.subarray(13))
    assert.equal(submitting.child.exitCode, null)

    writeFileSync(gate, '')
    const followed = await following.ended
    assert.deepEqual(
      [followed.code, followed.stdout],
      [0, 'one\ntwo\nthree\nfour\n'],
      followed.stderr,
    )
    assert.equal((await submitting.ended).code, 0)
    const whole = await readLog(id, 0)
    assert.deepEqual(whole.subarray(0, soFar.byteLength), soFar)
    assert.deepEqual(await readLog(id, soFar.byteLength), whole.subarray(soFar.byteLength))
    const records = (await desk.mesh('logs', 'talk', '--json')).stdout.trim().split('\n')
    assert.deepEqual(
      records.map((line) => {
        const { stream, text } = JSON.parse(line)
        return [stream, text]
      }),
      [
        ['stdout', 'one\n'],
        ['stderr', 'two\n'],
        ['stdout', 'three\n'],
        ['stderr', 'four\n'],
      ],
    )
  },
)

/** Command, exit code, stdout in latin1, stderr. */
const COMMANDS: readonly (readonly [
  script: readonly string[],
  code: number,
  out: string,
  err: string | RegExp,
])[] = [
  [['sh', '-c', 'printf "a\\000\\377b"; printf "no newline" >&2'], 0, 'a\0\xffb', 'no newline'],
  [['sh', '-c', 'echo out; echo err >&2; exit 3'], 3, 'out\n', 'err\n'],
  [['no-such-command'], 127, '', /no-such-command/],
  [['/etc/passwd'], 126, '', /etc\/passwd/],
  [['sh', '-c', 'kill -TERM $$'], 143, '', ''],
  [['sh', '-c', 'exit 255'], 255, '', ''],
]

for (const [command, code, out, err] of COMMANDS)
  test(`logs: mesh run ${command.join(' ')}`, { timeout: 60_000 }, async () => {
    const ran = await desk.mesh('run', '--unsealed', '--', ...command)
    assert.deepEqual([ran.code, ran.stdoutBytes.toString('latin1')], [code, out], ran.stderr)
    if (typeof err === 'string') assert.equal(ran.stderr, err)
    else assert.match(ran.stderr, err)
    const again = await desk.mesh('run', '--unsealed', '--', ...command)
    assert.deepEqual(again, ran)
    assert.equal((await desk.jobs())[0]?.cached, code === 0, 'only what succeeded is remembered')
  })

test('logs: mesh run takes files there and brings files back', { timeout: 60_000 }, async () => {
  desk.write('src/a.txt', 'in\n')
  desk.write(
    'tool.sh',
    '#!/bin/sh\ncat src/a.txt; mkdir -p made; tr a-z A-Z < src/a.txt > made/b.txt\n',
    0o755,
  )
  const ran = await desk.mesh(
    'run',
    '--unsealed',
    '-i',
    'src',
    '-o',
    'made',
    '-o',
    'list',
    '--',
    'sh',
    '-c',
    './tool.sh && ls > list',
  )
  assert.equal(ran.code, 127, 'tool.sh is no word of its own: it was not sent')
  const named = await desk.mesh(
    'run',
    '--unsealed',
    '-i',
    'src',
    '-i',
    'tool.sh',
    '-o',
    'made',
    '-o',
    'list',
    '--',
    'sh',
    '-c',
    './tool.sh && ls > list',
  )
  assert.deepEqual([named.code, named.stdout], [0, 'in\n'], named.stderr)
  assert.deepEqual(
    [desk.read('made/b.txt'), desk.read('list')],
    ['IN\n', 'list\nmade\nsrc\ntool.sh\n'],
  )
})
