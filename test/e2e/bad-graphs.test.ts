/** Graphs that cannot be built: each gets its own error, and its own exit code. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { Why } from '../../src/wire/api.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { processesWith } from '../build/builds.ts'
import { freePort, openMesh, problem, submitted, until, type Desk, type Mesh } from './meshes.ts'

let mesh: Mesh
let desk: Desk
const server = createServer((_request, response) => void response.end('served\n'))

before(async () => {
  mesh = await openMesh()
  desk = mesh.desk(await mesh.start({ name: 'alone', role: 'root,worker,store', cpus: 2 }))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
})

after(async () => {
  server.close()
  await mesh[Symbol.asyncDispose]()
})

const sh = (script: string, more = ''): string =>
  `mesh = 1\n[derivation.a]\nbuilder = "/bin/sh"\nargs = ["-c", '''${script}''']\n${more}`

function source(url: string, digest: string): string {
  return `mesh = 1
[sources.src]
urls = ["${url}"]
sha256 = "${digest}"
[derivation.a]
builder = "/bin/sh"
args = ["-c", 'cat $src > $out']
inputs.src = { source = "src" }
`
}

/** What the client or the daemon refuses before anything is built. */
const REFUSED: readonly (readonly [what: string, text: string, code: string, told: RegExp])[] = [
  ['malformed TOML', 'mesh = 1\n[derivation.a\n', 'MESH0201', /graph\.mesh\.toml:2:\d+/],
  [
    'an unknown key',
    sh('', 'biulder = "x"'),
    'MESH0202',
    /graph\.mesh\.toml:5:\d+.*biulder[\s\S]*builder/,
  ],
  ['a bad value', sh('', 'outputs = "out"'), 'MESH0203', /graph\.mesh\.toml:5:\d+/],
  [
    'a circle',
    `${sh('', 'inputs.b = { output = "b" }')}\n[derivation.b]\nbuilder = "/bin/sh"\ninputs.a = { output = "a" }`,
    'MESH0204',
    /a.*b|b.*a/,
  ],
  [
    'a missing file',
    sh('', 'inputs.f = { path = "./nowhere" }'),
    'MESH0205',
    /graph\.mesh\.toml:5:\d+.*nowhere/,
  ],
  [
    'an unknown output',
    sh('', 'inputs.f = { output = "b.out" }'),
    'MESH0206',
    /graph\.mesh\.toml:5:\d+.*\bb\b/,
  ],
]

for (const [what, text, code, told] of REFUSED)
  test(`bad-graphs: ${what}`, { timeout: 60_000 }, async () => {
    const ended = await desk.mesh('submit', desk.write('graph.mesh.toml', text), '--json')
    const error = problem(ended)
    assert.deepEqual([ended.code, error.code], [2, code], ended.stdout)
    assert.match(`${error.where ?? ''}: ${error.message}\n${error.hints.join('\n')}`, told)
    const plain = await desk.mesh('submit', 'graph.mesh.toml')
    assert.deepEqual([plain.code, plain.stdout], [2, ''])
    assert.match(plain.stderr, new RegExp(`^error\\[${code}\\]: `))
  })

/** What fails on a worker, with what the failure tells. */
const FAILED: readonly (readonly [
  what: string,
  text: string,
  exit: number,
  code: string,
  told: RegExp,
])[] = [
  [
    'an output that is not made',
    sh('echo hi; mkdir /build/out/other'),
    1,
    'MESH0403',
    /\$out.*other/,
  ],
  [
    'a builder that does not exist',
    sh('').replace('/bin/sh', '/bin/nothing'),
    1,
    'MESH0406',
    /\/bin\/nothing/,
  ],
  [
    'a builder that fails',
    sh('echo looking; echo broken >&2; exit 7'),
    1,
    'MESH0401',
    /exit 7\n[\s\S]*looking\n.*broken/,
  ],
  ['a builder that a signal ends', sh('kill -SEGV $$'), 1, 'MESH0401', /SIGSEGV/],
  ['an output that is no file', sh('mkfifo $out'), 1, 'MESH0408', /out/],
]

for (const [what, text, exit, code, told] of FAILED)
  test(`bad-graphs: ${what}`, { timeout: 60_000 }, async () => {
    const ended = await desk.mesh('submit', desk.write('graph.mesh.toml', text), '--json')
    const { failures, state } = submitted(ended)
    const [failure] = failures
    assert.deepEqual([ended.code, state, failure?.code], [exit, 'failed', code], ended.stdout)
    assert.equal(failure?.['node'], exit === 1 ? 'alone' : null)
    assert.match(`${failure?.message}\n${failure?.logTail}`, told)
    // For a person the same is on stderr.
    assert.match(ended.stderr, new RegExp(code))
    assert.match(ended.stderr, told)
  })

test('bad-graphs: a source with another sha256', { timeout: 60_000 }, async () => {
  const address = server.address()
  assert(typeof address === 'object' && address !== null)
  const url = `http://127.0.0.1:${address.port}/src`
  const wrong = await desk.mesh(
    'submit',
    desk.write('graph.mesh.toml', source(url, sha256('other'))),
    '--json',
  )
  const [failure] = submitted(wrong).failures
  assert.deepEqual(
    [wrong.code, failure?.code, failure?.name],
    [1, 'MESH0407', 'sources.src'],
    wrong.stdout,
  )
  for (const digest of [sha256('other'), sha256('served\n')])
    assert.match(failure?.message ?? '', new RegExp(digest))
  const right = await desk.mesh(
    'submit',
    desk.write('graph.mesh.toml', source(url, sha256('served\n'))),
    '--json',
  )
  assert.equal(right.code, 0, right.stderr)
  assert.equal(desk.read('result/a'), 'served\n')
  assert.deepEqual(submitted(right).bytes, { ...submitted(right).bytes, mirror: 7 })
})

test('bad-graphs: a source that cannot be reached', { timeout: 60_000 }, async () => {
  const url = `http://127.0.0.1:${await freePort()}/src`
  const ended = await desk.mesh(
    'submit',
    desk.write('graph.mesh.toml', source(url, sha256('x'))),
    '--json',
  )
  const [failure] = submitted(ended).failures
  assert.deepEqual([ended.code, failure?.code], [75, 'MESH0504'], ended.stdout)
  assert.match(failure?.message ?? '', /ECONNREFUSED/)
})

/** Each leaves processes behind that ignore what can be ignored. */
const LIMITS: readonly (readonly [what: string, limit: string, noise: string, told: RegExp])[] = [
  ['time', 'timeout = "1s"', 'while :; do echo; sleep 0.1; done', /run\.timeout \(1 s\)/],
  ['silence', 'max-silent = "1s"', 'sleep 60', /run\.max-silent \(1 s\)/],
  ['log', 'max-log = "1 MiB"', 'yes', /run\.max-log \(1 MiB\)/],
]

for (const [at, [what, limit, noise, told]] of LIMITS.entries())
  test(
    `bad-graphs: a build over its limit of ${what} is killed with all its processes`,
    { timeout: 60_000 },
    async () => {
      const mark = `${60 + at}.0${process.pid}`
      const script = `trap "" TERM INT HUP; (setsid sleep ${mark} &) ; sleep ${mark} & ${noise}`
      const ended = await desk.mesh(
        'submit',
        desk.write('graph.mesh.toml', sh(script, `[derivation.a.run]\n${limit}`)),
        '--json',
      )
      const [failure] = submitted(ended).failures
      assert.deepEqual([ended.code, failure?.code], [1, 'MESH0402'], ended.stdout)
      assert.match(failure?.message ?? '', told)
      await until('all processes to be gone', async () =>
        (await processesWith(mark)).length === 0 ? true : undefined,
      )
      assert.equal((await desk.job('a')).attempts.length, 1)
    },
  )

test(
  'bad-graphs: what no node can build waits and tells why, or fails at once',
  { timeout: 60_000 },
  async () => {
    const file = desk.write(
      'graph.mesh.toml',
      sh('echo > $out', 'needs = { memory = "60 TiB", features = ["quantum"] }'),
    )
    const following = desk.follow('submit', file, '--progress', 'plain')
    const job = await until('the job to wait', async () => {
      const [first] = await desk.jobs()
      return first?.why?.class === 'unsatisfiable' ? first : undefined
    })
    assert.match(job.why?.text ?? '', /no node matches.*alone.*60.*TiB/)
    const why = await desk.mesh('why', job.id, '--json')
    assert.equal(why.code, 0, why.stderr)
    const answer = Why.parse(JSON.parse(why.stdout))
    const permanent = answer.nodes[0]?.verdicts
      .filter(({ ok, permanent: is }) => !ok && is)
      .map(({ requirement }) => requirement)
    assert.deepEqual(permanent?.toSorted(), ['feature quantum', 'memory'])
    const shown = await desk.mesh('why', 'a')
    assert.match(shown.stdout, /60.*TiB[\s\S]*lower needs\.memory/)
    assert.equal(following.child.exitCode, null)
    const cancelled = await desk.mesh('cancel', job.request)
    assert.equal(cancelled.code, 0, cancelled.stderr)
    assert.equal((await following.ended).code, 8)
    assert.match(following.output.stderr, /no node matches/)

    const atOnce = await desk.mesh('submit', file, '--no-wait', '--json')
    assert.deepEqual(
      [atOnce.code, submitted(atOnce).failures[0]?.code],
      [4, 'MESH0301'],
      atOnce.stdout,
    )
  },
)
