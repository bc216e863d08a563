/** `mesh top`, the tree of nodes, tables that fit: golden frames of pure functions, and a real terminal. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import fc from 'fast-check'
import { dryRunLines } from '../../src/cli/dry-run-view.ts'
import { findNodes, nodeLines, nodeShowLines } from '../../src/cli/node-views.ts'
import { bar, sparkline } from '../../src/cli/text/bars.ts'
import { displayWidth, type Style } from '../../src/cli/text/style.ts'
import { table } from '../../src/cli/text/table.ts'
import { topLines, type TopOptions } from '../../src/cli/top-view.ts'
import type { DryRun, NodeView, Top } from '../../src/wire/api.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { FakeDaemon, PEER_ID } from './fake-daemon.ts'
import { MESH, Workplace } from './mesh-process.ts'

/** Of util-linux: runs a command on a terminal. */
const PTY_TOOL = 'script'
const hasPty = spawnSync(PTY_TOOL, ['--version']).error === undefined

const PLAIN: Style = { colour: false, unicode: true }
const ASCII: Style = { colour: false, unicode: false }
const T0 = '2026-11-22T10:00:00.000Z'

const TOP: Top = {
  v: 1,
  at: '2026-11-22T10:40:03.000Z',
  name: 'ci-a',
  totals: {
    nodes: { ready: 1, draining: 1, lost: 1 },
    cpus: { total: 20, busy: 13 },
    jobs: { waiting: 41, running: 2 },
    requests: { active: 2 },
    perSecond: { started: 3.25, ended: 3 },
  },
  nodes: [
    { name: 'ci-a', peerId: PEER_ID, state: 'ready', cpus: 16, busy: 12, running: 2, note: '' },
    {
      name: 'arm-2',
      peerId: `12D3KooW${'B'.repeat(44)}`,
      state: 'lost',
      cpus: 8,
      busy: 0,
      running: 0,
      note: 'last seen 4m ago',
    },
    {
      name: 'mac-1',
      peerId: `12D3KooW${'C'.repeat(44)}`,
      state: 'draining',
      cpus: 4,
      busy: 1,
      running: 1,
      note: 'OS update (ann)',
    },
  ],
  running: [
    {
      job: 'j-aaaaaaaaaaaa',
      name: 'chromium',
      request: 'r-1',
      user: 'ann/local',
      node: 'ci-a',
      phase: 'building',
      forMs: 62_000,
      estimateMs: 300_000,
    },
    {
      job: 'j-bbbbbbbbbbbb',
      name: 'zlib',
      request: 'r-2',
      user: 'bob/local',
      node: 'ci-a',
      phase: 'fetching',
      forMs: 4000,
      estimateMs: null,
    },
  ],
  waiting: [
    { class: 'busy', text: 'all 3 matching nodes are busy', count: 38, oldestMs: 190_000 },
    { class: 'unsatisfiable', text: 'no node has the feature kvm', count: 3, oldestMs: 240_000 },
  ],
  users: [
    {
      user: 'bob/local',
      group: 'default',
      weight: 1,
      score: 0.5,
      runningCpus: 3,
      usedCpuMs: 90_000,
    },
    {
      user: 'ann/local',
      group: 'default',
      weight: 2,
      score: 4,
      runningCpus: 9,
      usedCpuMs: 7_200_000,
    },
  ],
}
const options = (change: Partial<TopOptions> = {}): TopOptions => ({
  style: PLAIN,
  width: undefined,
  height: undefined,
  history: [],
  stale: undefined,
  footer: undefined,
  ...change,
})

test('top: what is wrong comes first, then nodes, jobs, reasons, users', () => {
  assert.deepEqual(topLines(TOP, options({ history: [0, 10, 20] })), [
    'mesh top  ci-a  10:40:03 UTC  3 nodes: 1 ready, 1 draining, 1 lost',
    'cpus   ██████████░░░░░░ 13/20  ▁▅█',
    'queue  2 running, 41 waiting, 2 active requests  3.3 started/s, 3.0 ended/s',
    '! arm-2 is lost: last seen 4m ago',
    '! 3 jobs cannot start (4m00s): no node has the feature kvm',
    '',
    'NODE   STATE      CPUS  BUSY              JOBS  NOTE',
    'arm-2  lost        -/8                       0  last seen 4m ago',
    'mac-1  draining    1/4  ████░░░░░░░░░░░░     1  OS update (ann)',
    'ci-a   ready     12/16  ████████████░░░░     2',
    '',
    'RUNNING         NAME      PHASE      TIME      OF  NODE  BY',
    'j-aaaaaaaaaaaa  chromium  building  1m02s  ~5m00s  ci-a  ann/local',
    'j-bbbbbbbbbbbb  zlib      fetching     4s          ci-a  bob/local',
    '',
    'WAITING  OLDEST  WHY',
    '     38   3m10s  all 3 matching nodes are busy',
    '      3   4m00s  no node has the feature kvm',
    '',
    'USER       GROUP    CPUS  SHARE   USED  WEIGHT  SCORE',
    'bob/local  default     3   25 %  1m30s       1   0.50',
    'ann/local  default     9   75 %  2h00m       2   4.00',
  ])
})

test('top: on a small screen each section says what it leaves out', () => {
  const many: Top = {
    ...TOP,
    nodes: Array.from({ length: 100 }, (_, at) => ({
      name: `n${String(at).padStart(3, '0')}`,
      peerId: `${PEER_ID.slice(0, -3)}${String(at).padStart(3, '0')}`,
      state: 'ready' as const,
      cpus: 4,
      busy: 4,
      running: 1,
      note: '',
    })),
  }
  const lines = topLines(many, options({ width: 60, height: 24, footer: 'q quits' }))
  assert.equal(lines.length, 24)
  assert.equal(lines.at(-1), 'q quits')
  const text = lines.join('\n')
  assert.match(text, /\nNODE .*\nn000 .*\n(?:n\d+ .*\n)* {2}\d+ more\n/)
  assert.match(text, /\nRUNNING .*\n/)
  assert.match(text, /\nUSER .*\n/)
})

test('top: never more rows or columns than the terminal has, whatever its size', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 200 }),
      fc.integer({ min: 1, max: 80 }),
      fc.boolean(),
      fc.array(fc.integer({ min: 0, max: 20 }), { maxLength: 60 }),
      (width, height, isBroken, history) => {
        const lines = topLines(
          TOP,
          options({
            width,
            height,
            history,
            footer: 'q quits',
            stale: isBroken ? 'not answered: the daemon went away' : undefined,
          }),
        )
        assert.ok(lines.length <= height, `${lines.length} lines`)
        for (const line of lines) assert.ok(displayWidth(line) <= width, line)
      },
    ),
  )
})

test('top: hostile names do not reach the terminal', () => {
  const [first] = TOP.running
  assert.ok(first)
  const evil: Top = {
    ...TOP,
    running: [{ ...first, name: 'a\x1b[2Jb\nc' }],
    waiting: [{ class: 'missing', text: 'x\x1b]0;title\x07y', count: 1, oldestMs: 0 }],
  }
  const text = topLines(evil, options({ stale: 'bad\x1b[31m' })).join('\n')
  // oxlint-disable-next-line no-control-regex
  assert.doesNotMatch(text, /[\x00-\x09\x0b-\x1f]/)
  assert.match(text, /^! bad$/m)
})

test('bars: something is never shown as nothing, and nothing as something', () => {
  assert.equal(bar(ASCII, 0, 8, 4), '....')
  assert.equal(bar(ASCII, 1, 1000, 4), '#...')
  assert.equal(bar(ASCII, 12, 8, 4), '####')
  assert.equal(bar(PLAIN, 1, 0, 3), '░░░')
  assert.equal(sparkline(ASCII, [0, 8, 4], 8), '_#=')
  assert.equal(sparkline(PLAIN, [1], 0), '▁')
})

test(
  'top: takes the whole screen, follows the window, and gives the terminal back',
  { timeout: 60_000, skip: hasPty ? false : 'the tool "script" is absent' },
  async () => {
    for (const end of ['q', '\x03', 'SIGTERM', 'SIGHUP'] as const) {
      await using daemon = await FakeDaemon.start()
      daemon.top = TOP
      using place = new Workplace()
      const top = `sh -c 'echo pid=$$ tty=$(tty).; exec ${MESH} top --data ${daemon.directory}'`
      const child = spawn(
        PTY_TOOL,
        ['-qec', `stty rows 30 cols 90; ${top}; stty -a`, '/dev/null'],
        { cwd: place.directory, env: { ...place.env, TERM: 'xterm' } },
      )
      let screen = ''
      let step: 'first frame' | 'resized' | 'ending' = 'first frame'
      child.stdout.on('data', (bytes: Buffer) => {
        screen += bytes.toString()
        // A whole frame: from the upper left corner to the erasing of the rest.
        const frame = screen.slice(screen.lastIndexOf('\x1b[H'))
        if (!frame.endsWith('\x1b[J')) return
        const [, pid, tty = ''] = /pid=(\d+) tty=(.*)\./.exec(screen) ?? []
        if (step === 'first frame') {
          assert.equal(frame.split('\r\n').length, 30)
          step = 'resized'
          spawnSync('stty', ['-F', tty, 'rows', '12', 'cols', '40'])
        } else if (step === 'resized' && frame.split('\r\n').length === 12) {
          step = 'ending'
          if (end === 'SIGTERM' || end === 'SIGHUP') process.kill(Number(pid), end)
          else child.stdin.write(end)
        }
      })
      await once(child, 'close')
      assert.match(screen, /arm-2 is lost: last seen 4m ago/)
      assert.equal(step, 'ending', screen)
      assert.ok(screen.includes('\x1b[?1049h'), end)
      const after = screen.slice(screen.indexOf('\x1b[?25h\x1b[?1049l'))
      assert.ok(!after.includes('\x1b[H'), `${end}: painted after the end`)
      assert.match(after, / icanon /, end)
      assert.match(after, / echo /, end)
    }
  },
)

test('top: one look where stdout is no terminal, JSON on demand, exit 69 without a root', async () => {
  await using daemon = await FakeDaemon.start()
  daemon.top = TOP
  using place = new Workplace()
  const here = ['--data', daemon.directory]
  const look = await place.mesh('top', ...here)
  assert.equal(look.code, 0)
  assert.match(look.stdout, /^mesh top {2}ci-a[\s\S]*\nann\/local .*\n$/)
  assert.ok(!look.stdout.includes('\x1b'))
  assert.deepEqual(JSON.parse((await place.mesh('top', '--json', ...here)).stdout), TOP)
  daemon.top = undefined
  assert.equal((await place.mesh('top', ...here)).code, 69)
})

function node(name: string, parent: string | null, change: Partial<NodeView> = {}): NodeView {
  return {
    name,
    peerId: PEER_ID,
    state: 'ready',
    roles: ['worker'],
    parent,
    environments: [],
    capacity: { cpus: 4, memoryBytes: 2 ** 30, diskBytes: 2 ** 30 },
    allocated: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
    versions: { mesh: '0.1.0', protocols: [] },
    http: null,
    lastSeenAt: T0,
    note: '',
    ...change,
  }
}
const twoCpus = { cpus: 2, memoryBytes: 0, diskBytes: 0 }
const at = { style: PLAIN, nowWallMs: Date.parse(T0) + 60_000 }

test('nodes: a mesh of several levels is a tree; states have their reasons', () => {
  const nodes = [
    node('root', null),
    node('leaf-1', 'mid', {
      state: 'draining',
      drain: { by: 'ann', reason: 'OS update', at: T0, deadline: '2026-11-22T10:31:00.000Z' },
      note: 'draining: OS update (ann)',
    }),
    node('mid', 'root', { speed: 1.5 }),
    node('other', 'root', {
      state: 'quarantined',
      quarantine: { reason: '3 jobs failed in a row', until: '2026-11-22T10:02:00.000Z' },
    }),
    node('twin', 'mid', { peerId: `12D3KooWxyz123${'A'.repeat(38)}` }),
    node('twin', 'mid', { state: 'lost' }),
  ]
  const lines = nodeLines(nodes, at).map((line) =>
    line.replace(/(ROLES|worker) .* (VERSION|0\.1\.0) */, '…'),
  )
  assert.deepEqual(lines, [
    'NODE              STATE        …NOTE',
    'root              ready        …',
    '· other           quarantined  …3 jobs failed in a row; tried again in 1m00s',
    '· mid             ready        …',
    '·· twin (AAAAAA)  lost         …last seen 1m00s ago',
    '·· leaf-1         draining     …OS update (ann, 1m00s ago, what runs ends in 30m00s)',
    '·· twin (xyz123)  ready        …',
  ])
})

test('nodes: parents in a circle, unknown ones and oneself do not hide a node', () => {
  const nodes = [node('a', 'b'), node('b', 'a'), node('c', 'c'), node('d', 'gone')]
  const shown = nodeLines(nodes, at).slice(1)
  assert.equal(shown.length, nodes.length)
  for (const { name } of nodes)
    assert.ok(
      shown.some((line) => line.startsWith(`${name} `)),
      name,
    )
})

test('nodes show: one node in full, found by name or by a piece of its peer id', () => {
  const one = node('ci-a', 'root', {
    speed: 1.25,
    http: 'http://10.0.0.7:7420',
    environments: [
      {
        system: 'x86_64-linux',
        isolation: 'namespace',
        label: 'debian-12',
        base: sha256(''),
        tools: {},
        features: ['kvm'],
      },
    ],
  })
  const other = node('ci-b', 'root', { peerId: `12D3KooWxyz123${'A'.repeat(38)}` })
  assert.deepEqual(findNodes([one, other], 'ci-a'), [one])
  assert.deepEqual(findNodes([one, other], 'xyz'), [other])
  assert.deepEqual(findNodes([one, other], 'nobody'), [])
  assert.deepEqual(nodeShowLines(one, [], at), [
    'ci-a',
    '  state      ready',
    `  peer       ${PEER_ID}`,
    '  parent     root',
    '  roles      worker',
    '  address    http://10.0.0.7:7420',
    '  version    0.1.0',
    '  last seen  1m00s ago',
    '  cpus       0 of 4 in use',
    '  memory     0 B of 1 GiB in use',
    '  disk       0 B of 1 GiB in use',
    '  speed      1.25 of the reference machine',
    '  runs       x86_64-linux namespace debian-12 (kvm)',
    '',
    'nothing runs there',
  ])
})

test('nodes show: by way of the API; what is no node exits with 5, what is no verb with 2', async () => {
  await using daemon = await FakeDaemon.start()
  daemon.nodes = [node('ci-a', null), node('ci-b', 'ci-a', { allocated: twoCpus })]
  using place = new Workplace()
  const here = ['--data', daemon.directory]
  const shown = await place.mesh('nodes', 'show', 'ci-b', ...here)
  assert.equal(shown.code, 0, shown.stderr)
  assert.match(shown.stdout, /^ci-b\n {2}state {6}ready\n[\s\S]* {2}cpus {7}2 of 4 in use\n/)
  assert.match(daemon.lastQuery, /^\?node=ci-b&state=leased%2Crunning$/)
  const json = JSON.parse((await place.mesh('nodes', 'show', 'ci-b', '--json', ...here)).stdout)
  assert.deepEqual(json, [daemon.nodes[1]])
  const none = await place.mesh('nodes', 'show', 'ci-c', ...here)
  assert.equal(none.code, 5)
  assert.match(none.stderr, /the nearest: ci-a, ci-b/)
  assert.equal((await place.mesh('nodes', 'ci-a', ...here)).code, 2)
})

test('table: spare columns go where the terminal is narrow, the highest number first', () => {
  const columns = [
    { header: 'A', cell: () => 'aaaaaaaaaa' },
    { header: 'B', spare: 1, cell: () => 'bbbbbbbbbb' },
    { header: 'C', spare: 2, cell: () => 'cccccccccc' },
    { header: 'D', cell: () => 'd'.repeat(100) },
  ]
  const heads = [200, 60, 59, 48, 47, 20].map((width) =>
    (table(columns, [1], { style: PLAIN, width })[0] ?? '').replaceAll(/ +/g, ''),
  )
  assert.deepEqual(heads, ['ABCD', 'ABCD', 'ABD', 'ABD', 'AD', 'AD'])
  for (const width of [60, 47, 20])
    for (const line of table(columns, [1], { style: PLAIN, width }))
      assert.ok(displayWidth(line) <= width)
  assert.equal(table(columns, [1], { style: PLAIN })[1]?.length, 136)
})

test('dry run: counts, estimates, nodes, and what no node can build', () => {
  const run: DryRun['derivations'][number]['run'] = {
    timeoutMs: 3_600_000,
    maxSilentMs: 600_000,
    maxLogBytes: 1024,
    retries: 2,
  }
  const answer: DryRun = {
    derivations: [
      { name: 'lib', state: 'cached', nodes: [], nodeCount: 0, inputBytes: 0, run },
      {
        name: 'tool',
        state: 'build',
        nodes: ['a', 'b', 'c', 'd', 'e'],
        nodeCount: 37,
        inputBytes: 1024,
        run,
        estimateMs: 90_000,
      },
      {
        name: 'vm',
        state: 'unknown',
        nodes: [],
        inputBytes: 0,
        run,
        estimateMs: null,
        reason: 'no node has the feature kvm',
      },
    ],
    criticalPath: ['tool', 'vm'],
    criticalPathMs: 100_000,
    estimateMs: 120_000,
    toFetch: { count: 2, bytes: 3 * 1024 ** 2 },
    unsatisfiable: ['vm'],
  }
  assert.deepEqual(dryRunLines(answer, { style: PLAIN }), [
    '1 cached, 2 to build (1 may turn out to be cached), 2 sources to fetch (3 MiB)',
    '',
    'STATE    DERIVATION  INPUTS   TAKES  TIMEOUT  NODES',
    'cached   lib            0 B            1h00m',
    'build    tool         1 KiB  ~1m30s    1h00m  a,b,c,d and 33 more',
    'unknown  vm             0 B            1h00m  none: no node has the feature kvm',
    '',
    'critical path: tool -> vm (about 1m40s)',
    'all of it: about 2m00s',
    '! no node can build vm: it would wait (--no-wait: fail at once)',
  ])
})
