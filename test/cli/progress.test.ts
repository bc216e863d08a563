/** The progress display: golden frames of its pure functions, and what each event newly tells. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  failureLines,
  heartbeatLine,
  regionLines,
  REGION_LINES_MAX,
  summaryLines,
  transitionLine,
} from '../../src/cli/progress/lines.ts'
import { ProgressState } from '../../src/cli/progress/state.ts'
import {
  displayWidth,
  isUtf8Locale,
  printable,
  wantsColour,
  type Style,
} from '../../src/cli/text/style.ts'
import type { AttemptView, Event, Failure, JobView, RequestView } from '../../src/wire/api.ts'
import { sha256 } from '../../src/wire/digest.ts'

const PLAIN: Style = { colour: false, unicode: true }
const ASCII: Style = { colour: false, unicode: false }
const COLOUR: Style = { colour: true, unicode: true }
const T0 = Date.parse('2026-11-22T10:40:00.000Z')
const at = (ms: number): string => new Date(T0 + ms).toISOString()

function request(change: Partial<RequestView> = {}): RequestView {
  return {
    id: 'r-91kabcdefgh',
    name: 'deps.mesh.toml',
    user: 'ann',
    state: 'running',
    accepted: 'owned',
    owner: 'ci-a',
    detachable: true,
    submittedAt: at(0),
    endedAt: null,
    counts: {
      total: 353,
      built: 212,
      cached: 88,
      failed: 1,
      cancelled: 0,
      running: 2,
      waiting: 50,
    },
    outputs: {},
    bytes: { peer: 1.5 * 1024 ** 3, mirror: 34 * 1024 ** 2, local: 1024, root: 0 },
    wallMs: 190_000,
    serialMs: 2_451_000,
    ranLocally: 37,
    failures: [],
    exit: 0,
    replicas: null,
    notices: [],
    ...change,
  }
}

function attempt(change: Partial<AttemptView> = {}): AttemptView {
  return {
    id: 'a-1abcdef',
    n: 1,
    node: 'ci-a',
    host: 'ci-a',
    arch: 'x86_64',
    platform: 'linux',
    environment: 'namespace debian-12',
    action: sha256(''),
    state: 'building',
    startedAt: at(128_000),
    endedAt: null,
    phases: {},
    usage: null,
    error: null,
    exitCode: null,
    ...change,
  }
}

function job(name: string, change: Partial<JobView> = {}): JobView {
  return {
    id: `j-${name}00`,
    request: 'r-91kabcdefgh',
    name,
    key: null,
    state: 'waiting',
    cached: false,
    attempts: [],
    rewinds: 0,
    ...change,
  }
}

const jobEvent = (view: JobView): Event => ({ type: 'job', at: at(190_000), job: view })
const FAILURE: Failure = {
  job: 'j-curl00',
  name: 'curl',
  code: 'MESH0401',
  message: 'exit 1 after 1m12s',
  node: 'arm-1',
  logTail: 'cc -c curl.c\n\x1b[31mcurl.c:88:3: error\x1b[0m\x1b[2J\n',
}

function running(): ProgressState {
  const state = new ProgressState()
  state.apply({ type: 'request', at: at(0), request: request() })
  state.apply(jobEvent(job('chromium-base', { state: 'running', attempts: [attempt()] })))
  state.apply(
    jobEvent(
      job('linux-headers', {
        state: 'leased',
        attempts: [attempt({ node: 'arm-1', state: 'fetching', startedAt: at(186_000) })],
      }),
    ),
  )
  state.apply(
    jobEvent(job('kernel-arm', { why: { class: 'unsatisfiable', text: 'no node has 32 GiB' } })),
  )
  state.apply(jobEvent(job('later', { why: { class: 'inputs', text: 'waiting for zlib' } })))
  return state
}

test('progress: the live region', () => {
  assert.deepEqual(
    regionLines(running(), { style: PLAIN, width: 100, nowWallMs: T0 + 190_000, hasKeys: true }),
    [
      '────────────────────────────────────────────────────────────────────────────────',
      ' r-91kabcdefgh  301/353  ✔212 built =88 cached ✘1 failed  run 2  wait 50   3m10s',
      ' ⏵ chromium-base            build    1m02s  ci-a',
      ' ⏵ linux-headers            fetch       4s  arm-1',
      ' ⏸ kernel-arm               waiting  no node has 32 GiB',
      ' [d] detach (it goes on)  [Ctrl-C] cancel',
    ],
  )
})

test('progress: the live region in ASCII, on a narrow terminal', () => {
  assert.deepEqual(
    regionLines(running(), { style: ASCII, width: 40, nowWallMs: T0 + 190_000, hasKeys: false }),
    [
      '---------------------------------------',
      ' r-91kabcdefgh  301/353  +212 built =8~',
      ' > chromium-base            build    1~',
      ' > linux-headers            fetch      ~',
      ' | kernel-arm               waiting  n~',
      ' [Ctrl-C] cancel',
    ].map((line) => line.replace('      ~', '     ~')),
  )
})

test('progress: the live region never has more than its lines, nor a line as wide as the terminal', () => {
  const state = running()
  for (let n = 0; n < 50; n++)
    state.apply(jobEvent(job(`job-${n}`, { state: 'running', attempts: [attempt()] })))
  for (const width of [10, 20, 80, 200]) {
    const lines = regionLines(state, { style: COLOUR, width, nowWallMs: T0, hasKeys: true })
    assert.ok(lines.length <= REGION_LINES_MAX)
    for (const line of lines) assert.ok(displayWidth(line) < width, `${width}: ${line}`)
  }
})

test('progress: one line for each transition', () => {
  const state = new ProgressState()
  const lines: string[] = []
  const tell = (event: Event): void => {
    for (const transition of state.apply(event)) lines.push(transitionLine(PLAIN, transition))
  }
  const ended = attempt({ state: 'done', startedAt: at(0), endedAt: at(2000) })
  for (let round = 0; round < 2; round++) {
    // The second round is a stream that starts over: it tells nothing new.
    tell({
      type: 'request',
      at: at(0),
      request: request({ notices: ['37 jobs ran here: no other node has gcc-13'] }),
    })
    tell(jobEvent(job('openssl', { state: 'done', cached: true })))
    if (round === 0) tell(jobEvent(job('zlib', { state: 'running', attempts: [attempt()] })))
    tell(jobEvent(job('zlib', { state: 'done', attempts: [ended] })))
    tell(jobEvent(job('kernel', { why: { class: 'unsatisfiable', text: 'no node has 32 GiB' } })))
    tell(
      jobEvent(
        job('curl', {
          state: 'failed',
          attempts: [
            attempt({
              n: 1,
              id: 'a-lostlost',
              state: 'lost',
              node: 'arm-2',
              error: 'the node vanished',
            }),
            attempt({ n: 2, state: 'failed', startedAt: at(0), endedAt: at(72_000) }),
          ],
        }),
      ),
    )
    tell({ type: 'request', at: at(0), request: request({ failures: [FAILURE] }) })
    tell({ type: 'notice', at: at(0), text: 'two\nlines \x1b[2J' })
  }
  assert.deepEqual(lines, [
    '⏵ request r-91kabcdefgh  deps.mesh.toml  353 derivations',
    '! 37 jobs ran here: no other node has gcc-13',
    '= cached openssl',
    '⏵ build  zlib                             ci-a',
    '✔ done   zlib                         2s  ci-a',
    '⏸ wait   kernel                           no node has 32 GiB  mesh why j-kernel00',
    '! lost   curl                             arm-2  attempt 1: the node vanished',
    '✘ failed curl                      1m12s  arm-1  exit 1 after 1m12s  mesh logs j-curl00',
    '! two lines',
  ])
})

test('progress: a rewound job is told again', () => {
  const state = new ProgressState()
  const done = job('zlib', {
    state: 'done',
    attempts: [attempt({ state: 'done', endedAt: at(1) })],
  })
  assert.equal(state.apply(jobEvent(done)).length, 1)
  assert.equal(state.apply(jobEvent(job('zlib', { rewinds: 1 }))).length, 0)
  assert.equal(state.apply(jobEvent({ ...done, rewinds: 1 })).length, 1)
})

test('progress: failures keep the colours of their logs, and nothing else', () => {
  assert.deepEqual(failureLines(PLAIN, [FAILURE], 12), [
    '',
    '✘ error[MESH0401]: curl on arm-1: exit 1 after 1m12s',
    '   | cc -c curl.c',
    '   | curl.c:88:3: error',
    '   full log: mesh logs j-curl00   explained: mesh explain MESH0401',
  ])
  assert.equal(
    failureLines(COLOUR, [FAILURE], 1)[2],
    '   | \x1b[31mcurl.c:88:3: error\x1b[0m\x1b[0m',
  )
  assert.equal(
    failureLines(
      PLAIN,
      Array.from({ length: 100 }, () => FAILURE),
      12,
    ).at(-1),
    '   and 80 more failures: mesh jobs --json',
  )
})

test('progress: the summary', () => {
  const state = running()
  state.apply(jobEvent(job('x', { state: 'done', attempts: [attempt({ state: 'done' })] })))
  state.apply(jobEvent(job('y', { state: 'done', cached: true })))
  const ended = request({ state: 'failed', counts: { ...request().counts, cancelled: 3 } })
  assert.deepEqual(summaryLines(PLAIN, state, ended), [
    'r-91kabcdefgh failed in 3m10s: 212 built, 88 cached, 1 failed, 3 cancelled',
    '  built on   ci-a 1; ran locally: 37',
    '  moved      1.5 GiB from peers, 34 MiB from mirrors, 1 KiB were there; through the root: 0 B',
    '  time       3m10s; one after the other 40m51s: speed-up 12.9x',
  ])
})

test('progress: the summary of what has too few copies says so, and the region what it waits for', () => {
  const state = running()
  const once = request({ state: 'done', replicas: 1 })
  assert.equal(
    summaryLines(PLAIN, state, once).find((line) => line.startsWith('  copies')),
    '  copies     1 of 2; what is missing is made when a store node can take it',
  )
  const twice = summaryLines(PLAIN, state, request({ state: 'done', replicas: 2 }))
  assert(!twice.some((line) => line.includes('copies')))
  const counts = { ...request().counts, total: 300, running: 0, waiting: 0, failed: 0 }
  state.apply({ type: 'request', at: at(0), request: request({ counts, replicas: 1 }) })
  const lines = regionLines(state, { style: PLAIN, width: 80, nowWallMs: T0, hasKeys: false })
  assert(lines.some((line) => /the outputs +copied to store nodes, 1 of 2/.test(line)))
})

test('progress: the heartbeat', () => {
  assert.equal(
    heartbeatLine(running(), request(), T0 + 190_000),
    'r-91kabcdefgh 301/353 done, 2 running (longest chromium-base 1m02s on ci-a), 50 waiting',
  )
})

test('style: control sequences of others never reach the terminal', () => {
  const hostile = 'a\x1b]0;title\x07b\x1b[2Jc\x1b[31md\x9b1me\rf\x1bPx\x1b\\g\u202eh\x08i\tj\x1b'
  assert.equal(printable(hostile), 'abcd1mefghi\tj')
  assert.equal(printable(hostile, { colour: true }), 'abc\x1b[31md1mefghi\tj')
})

test('style: colours and symbols by the environment', () => {
  assert.equal(wantsColour('auto', {}, true), true)
  assert.equal(wantsColour('auto', { NO_COLOR: '1' }, true), false)
  assert.equal(wantsColour('auto', { NO_COLOR: '' }, true), true)
  assert.equal(wantsColour('auto', { TERM: 'dumb' }, true), false)
  assert.equal(wantsColour('auto', { FORCE_COLOR: '1' }, false), true)
  assert.equal(wantsColour('auto', { CLICOLOR_FORCE: '0' }, false), false)
  assert.equal(wantsColour('never', { FORCE_COLOR: '1' }, true), false)
  assert.equal(wantsColour('always', {}, false), true)
  assert.equal(isUtf8Locale({ LANG: 'de_DE.UTF-8' }), true)
  assert.equal(isUtf8Locale({ LC_ALL: 'C', LANG: 'de_DE.UTF-8' }), false)
  assert.equal(displayWidth('aé日本\x1b[31mx\x1b[0m'), 7)
})
