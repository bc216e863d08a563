/** The levers and the filters of lists end to end: bin/mesh as a process, against a daemon in little. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { drainLines, leverLine, quoted, undrainedLine } from '../../src/cli/lever-views.ts'
import type { DrainView, NodeView } from '../../src/wire/api.ts'
import { FakeDaemon, PEER_ID } from './fake-daemon.ts'
import { Workplace } from './mesh-process.ts'

const TWO = `mesh = 1
[derivation.lib]
builder = "/bin/sh"
args = ["-c", "echo lib > $out"]
[derivation.tool]
builder = "/bin/sh"
args = ["-c", "cat $lib > $out"]
inputs.lib = { output = "lib.out" }
`
const here = (daemon: FakeDaemon): string[] => ['--data', daemon.directory]

function node(name: string, change: Partial<NodeView> = {}): NodeView {
  return {
    name,
    peerId: PEER_ID,
    state: 'ready',
    roles: ['worker'],
    parent: 'ci-a',
    environments: [],
    capacity: { cpus: 4, memoryBytes: 0, diskBytes: 0 },
    allocated: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
    versions: { mesh: '0.1.0', protocols: [] },
    http: null,
    lastSeenAt: '2026-11-22T10:00:00.000Z',
    note: '',
    ...change,
  }
}

/** A request that waits, and its id. */
async function waiting(daemon: FakeDaemon, place: Workplace): Promise<string> {
  daemon.hold = { class: 'unsatisfiable', text: 'no node has it' }
  place.write('two.mesh.toml', TWO)
  return (await place.mesh('submit', '-d', 'two.mesh.toml', ...here(daemon))).stdout.trim()
}

test('drain: says which nodes match, what runs there, and that later ones match too', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  daemon.nodes = [
    node('ci-a', { allocated: { cpus: 5, memoryBytes: 0, diskBytes: 0 } }),
    node('ci-b'),
    node('arm-1'),
  ]
  const args = ['drain', 'ci-*', '--reason', 'new disks', '--deadline', '30m', ...here(daemon)]
  const { stdout, code } = await place.mesh(...args)
  assert.equal(code, 0)
  assert.deepEqual(stdout.replace(/in 30m00s \(\d\d:\d\d UTC\)/, 'in 30m').split('\n'), [
    'draining ci-*: new disks; 2 nodes match now',
    'NODE  STATE     STILL RUNNING',
    'ci-a  draining  job0 (j-0, 1m02s), job1 (j-1, 1m02s), job2 (j-2, 1m02s), 2 more',
    'ci-b  drained   nothing',
    'Nodes that match further down the tree, or come later, take no jobs either.',
    'What still runs in 30m is stopped and started elsewhere.',
    "End it: mesh undrain 'ci-*'",
    '',
  ])
  const list = await place.mesh('drain', '--list', ...here(daemon))
  assert.match(
    list.stdout,
    /^SELECTOR +BY +AGE +DEADLINE +NODES +RUNNING +REASON\nci-\* +ann +\S+ +in \d+m\d+s \(\d\d:\d\d UTC\) +2 +5 +new disks\n$/,
  )
  const json = JSON.parse((await place.mesh('drain', '--list', '--json', ...here(daemon))).stdout)
  assert.equal(json[0].selector, 'ci-*')
  const end = await place.mesh('undrain', 'ci-*', ...here(daemon))
  assert.equal(end.stdout, 'ci-a, ci-b take jobs again\n')
  const twice = await place.mesh('undrain', 'ci-*', ...here(daemon))
  assert.equal(twice.code, 0)
  assert.equal(twice.stdout, "nothing was drained by 'ci-*'; mesh drain --list shows what is\n")
  assert.equal(
    (await place.mesh('drain', '--list', ...here(daemon))).stdout,
    'nothing is drained\n',
  )
})

test('drain: refuses what it cannot mean', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  for (const args of [
    ['drain'],
    ['drain', '--list', 'ci-a'],
    ['drain', 'a', '--deadline', 'soon'],
  ]) {
    const ended = await place.mesh(...args, ...here(daemon))
    assert.equal(ended.code, 2, args.join(' '))
    assert.match(ended.stderr, /^error\[MESH0002\]/)
  }
  assert.equal(daemon.drains.length, 0)
})

test('drain: lines for no node, no deadline and no reason; the hint can be pasted', () => {
  const drain: DrainView = {
    id: 'd-1',
    selector: "it's",
    reason: '',
    by: 'ann',
    at: '2026-11-22T10:00:00.000Z',
    deadline: null,
    nodes: [],
  }
  const nowWallMs = Date.parse(drain.at)
  const style = { colour: false, unicode: true }
  assert.deepEqual(drainLines(drain, { nowWallMs, style }), [
    "draining it's; no node matches now",
    'Nodes that match further down the tree, or come later, take no jobs either.',
    'What runs may end in its own time; --deadline TIME sets an end to it.',
    `End it: mesh undrain 'it'\\''s'`,
  ])
  assert.equal(quoted('system=x86_64-linux,role=worker'), 'system=x86_64-linux,role=worker')
  assert.equal(
    undrainedLine('x', { drains: [{ id: 'd-1', selector: 'x' }], nodes: [] }),
    '1 drain ended: nodes that match x take jobs again',
  )
})

test('boost, hold, release, retry, cancel: a request by its prefix', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  const id = await waiting(daemon, place)
  const pull = async (...args: string[]): Promise<string> =>
    (await place.mesh(...args, ...here(daemon))).stdout.trim()
  assert.equal(await pull('boost', id), `${id} has priority 100 now`)
  assert.equal(await pull('boost', id.slice(2), '70'), `${id} has priority 70 now`)
  assert.equal(
    await pull('hold', id.slice(0, 8), '--reason', 'wrong branch?'),
    `${id} is held by ann: wrong branch?; to let it go on: mesh release ${id}`,
  )
  const table = await pull('requests')
  assert.match(table, /^REQUEST +BY +AGE +STATE +PRIO .* NAME +NOTE\n/)
  assert.match(table, / held +70 .* two.mesh.toml +held by ann: wrong branch\?$/)
  assert.equal(await pull('release', id), `${id} is not held (running)`)
  assert.equal(await pull('cancel', id), `${id} is cancelled`)
  assert.equal(await pull('boost', id), `${id} is cancelled: its order does not matter any more`)
  assert.match(await pull('retry', id), new RegExp(`^${id} goes on: 0 done, 2 jobs to go$`))
  const again: unknown = JSON.parse(await pull('retry', id, '--rebind', '--json'))
  assert.ok(typeof again === 'object' && again !== null && 'why' in again)
  assert.deepEqual(again.why, { class: 'rebind', text: 'it starts over' })
})

test('boost, hold, cancel: a job by id, by name, by REQUEST/NAME, and by way of mesh jobs', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  const id = await waiting(daemon, place)
  const lib = `j-${id.slice(2)}0`
  const tool = `j-${id.slice(2)}1`
  const pull = async (...args: string[]): Promise<string> =>
    (await place.mesh(...args, ...here(daemon))).stdout.trim()
  assert.equal(await pull('boost', lib, '7'), `lib (${lib}) has priority 7 now`)
  assert.equal(
    await pull('hold', 'tool'),
    `tool (${tool}) is held by ann; to let it go on: mesh release ${tool}`,
  )
  const jobs = await pull('jobs')
  assert.match(jobs, new RegExp(`^${tool} +${id} +held +tool +held by ann$`, 'm'))
  assert.equal(await pull('jobs', 'boost', `${id}/tool`, '9'), `tool (${tool}) has priority 9 now`)
  assert.match(
    await pull('jobs', 'show', 'tool'),
    new RegExp(
      `^tool \\(${tool}\\)\n {2}state {5}held: held by ann\n {2}request {3}${id}\n {2}key {7}not known before its inputs are\n {2}priority {2}9$`,
    ),
  )
  assert.equal(await pull('cancel', `${id}/lib`), `lib (${lib}) is cancelled`)
  const none = await place.mesh('hold', 'absent', ...here(daemon))
  assert.equal(none.code, 5)
  assert.match(none.stderr, /error\[MESH0601\]/)
  assert.equal((await place.mesh('boost', lib, '101', ...here(daemon))).code, 2)
  assert.equal((await place.mesh('jobs', 'list', lib, ...here(daemon))).code, 2)
})

test('levers: a word that is both a derivation and a prefix of a request is refused', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  const id = await waiting(daemon, place)
  const word = id.slice(2, 6)
  place.write('named.mesh.toml', `mesh = 1\n[derivation.${word}]\nbuilder = "/bin/true"\n`)
  await place.mesh('submit', '-d', 'named.mesh.toml', ...here(daemon))
  const ended = await place.mesh('cancel', word, ...here(daemon))
  assert.equal(ended.code, 2, ended.stdout)
  assert.match(ended.stderr, /error\[MESH0602\].*may be the derivation .* or the request r-/)
  assert.equal((await place.mesh('cancel', id, ...here(daemon))).stdout, `${id} is cancelled\n`)
})

test('levers: what has ended says so instead of promising something', () => {
  const job = {
    id: 'j-1',
    request: 'r-1',
    name: 'lib',
    key: null,
    state: 'done' as const,
    cached: false,
    attempts: [],
    rewinds: 0,
  }
  assert.equal(leverLine('cancel', job), 'lib (j-1) is done')
  assert.equal(leverLine('hold', job), 'lib (j-1) is done: there is nothing to hold')
  assert.equal(leverLine('retry', job), 'lib (j-1) is done: there is nothing to build again')
  assert.equal(
    leverLine('boost', { ...job, priority: 9 }),
    'lib (j-1) is done: its order does not matter any more',
  )
})

test('jobs, requests: filters go to the owner; -q prints ids; unknown states name the nearest', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  const id = await waiting(daemon, place)
  const list = async (...args: string[]): Promise<string[]> =>
    (await place.mesh(...args, ...here(daemon))).stdout.trim().split('\n')
  assert.deepEqual(await list('jobs', '-q', '--name', 't*'), [`j-${id.slice(2)}1`])
  assert.deepEqual(await list('jobs', '-q', id, '--state', 'active', '-n', '1'), [
    `j-${id.slice(2)}1`,
  ])
  assert.equal(daemon.lastQuery, `?state=waiting%2Cleased%2Crunning&request=${id}&limit=1`)
  assert.deepEqual(await list('jobs', '-q', '--state', 'done,failed'), [''])
  assert.deepEqual(await list('jobs', '-q', '--user', 'bob'), [''])
  assert.deepEqual(await list('requests', '-q', '--user', 'ann', '--state', 'active'), [id])
  assert.deepEqual(await list('jobs', '--requests', '-q', id.slice(2, 6)), [id])
  assert.deepEqual(await list('requests', '-q', id.slice(2, 6), '-n', '1'), [id])
  assert.equal((await place.mesh('jobs', '--requests', '--node', 'x', ...here(daemon))).code, 2)
  const [row] = JSON.parse((await list('requests', '--json'))[0] ?? '')
  assert.equal(row.id, id)
  const wrong = await place.mesh('jobs', '--state', 'runing', ...here(daemon))
  assert.equal(wrong.code, 2)
  assert.match(wrong.stderr, /there is no state "runing"; the nearest are running and /)
  assert.equal((await place.mesh('jobs', '-n', '0', ...here(daemon))).code, 2)
})

test('submit: --wait-limit is part of the request, and excludes --no-wait', async () => {
  await using daemon = await FakeDaemon.start()
  using place = new Workplace()
  place.write('two.mesh.toml', TWO)
  const submit = (...args: string[]): Promise<{ code: number; stderr: string }> =>
    place.mesh('submit', 'two.mesh.toml', ...args, ...here(daemon))
  assert.equal((await submit('--wait-limit', '2h')).code, 0)
  assert.equal(daemon.submission?.waitLimitMs, 7_200_000)
  assert.equal((await submit('--wait-limit', '2h', '--no-wait')).code, 2)
  assert.equal((await submit('--wait-limit', '90d')).code, 2)
  assert.equal((await submit('--no-wait')).code, 0)
  assert.equal(daemon.submission.waitLimitMs, undefined)
  assert.equal(daemon.submission.noWait, true)
})
