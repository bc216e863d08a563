/** A node's own checks, run as real processes. */
import assert from 'node:assert/strict'
import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import {
  acceptanceChecks,
  readAnswer,
  REFUSAL_MS_DEFAULT,
  type AcceptanceChecks,
  type Refused,
} from '../../src/build/acceptance-checks.ts'
import { encodeAction, makeAction } from '../../src/wire/action.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { jobKey, resolveDerivation } from '../../src/wire/derivation.ts'
import { REFUSAL_MS_MAX, type Lease } from '../../src/wire/work-messages.ts'
import { derivation, LINUX } from '../scheduler/samples.ts'
import { Builds, processesWith, uniqueSleep, until } from './builds.ts'

let builds: Builds
before(async () => {
  builds = await Builds.open()
})
after(() => builds[Symbol.asyncDispose]())

let count = 0
const notes: string[] = []
const resolved = resolveDerivation(derivation('kernel'), () => undefined)
assert(resolved !== undefined)
const action = makeAction(resolved, { system: LINUX }, sha256('userland'))

/** Writes the scripts, and gives the checks that run them and an attempt to ask about. */
async function ask(
  scripts: readonly (string | undefined)[],
  { limitMs = 20_000, signal = new AbortController().signal } = {},
): Promise<Refused | undefined> {
  assert(resolved !== undefined)
  const id = `a-check${String((count += 1)).padStart(4, '2')}`
  const directory = join(builds.directory, id)
  await mkdir(directory)
  const paths: string[] = []
  for (const [at, script] of scripts.entries()) {
    const path = join(builds.directory, `${id}-${at}.sh`)
    paths.push(path)
    if (script === undefined) continue
    await writeFile(path, `#!/bin/sh\n${script}\n`)
    await chmod(path, 0o755)
  }
  const lease: Lease = {
    attempt: id,
    job: 'j-222222222222',
    name: 'kernel',
    action: encodeAction(action),
    jobKey: jobKey(resolved),
    userland: null,
    isolation: 'namespace',
    epoch: 1,
    cpus: 3,
    memoryBytes: 2 ** 30,
    diskBytes: 5,
    limits: { timeoutMs: 1, maxSilentMs: 1, maxLogBytes: 1 },
    hints: [],
    peers: [],
    urls: [],
  }
  const checks: AcceptanceChecks = acceptanceChecks(
    { executor: builds.executor, onNote: (note) => notes.push(note) },
    { paths, node: 'ci-1', limitMs },
  )
  return checks.ask(lease, action, { directory, signal })
}

test('checks: exit 0 accepts, and what it printed does not matter', async () => {
  assert.equal(await ask(['echo whatever; exit 0', 'true']), undefined)
  assert.equal(notes.at(-1), '')
})

test('checks: the exit status says what is refused, the first line why', async () => {
  assert.deepEqual(await ask(['echo "no license left"; echo more; exit 1']), {
    kind: 'refused',
    scope: 'job',
    reason: 'no license left',
    forMs: REFUSAL_MS_DEFAULT,
  })
  assert.equal((await ask(['exit 2']))?.scope, 'name')
  const all = await ask(['true', 'echo on battery; echo retry-after=60; exit 3'])
  assert.deepEqual(
    { scope: all?.scope, reason: all?.reason, forMs: all?.forMs },
    { scope: 'all', reason: 'on battery', forMs: 60_000 },
  )
})

test('checks: later ones are not asked after a refusal', async () => {
  const mark = join(builds.directory, 'asked')
  await ask(['exit 1', `touch ${mark}`])
  await assert.rejects(() => chmod(mark, 0o600), { code: 'ENOENT' })
})

test('checks: are told of the job in their environment', async () => {
  const told = await ask([
    'echo "$MESH_NAME $MESH_SYSTEM $MESH_CPUS $MESH_MEMORY $MESH_DISK $MESH_JOB $MESH_NODE $MESH_ISOLATION"; exit 1',
  ])
  assert.equal(told?.reason, `kernel ${LINUX} 3 ${2 ** 30} 5 j-222222222222 ci-1 namespace`)
})

test('checks: one that is missing refuses all, and the node says so', async () => {
  const refused = await ask([undefined])
  assert.equal(refused?.scope, 'all')
  assert.match(refused?.reason ?? '', /cannot be run: .*there is no such program/)
  assert.match(notes.at(-1) ?? '', /^check .* cannot be run/)
})

test('checks: one that hangs is killed with its children, and refuses all', async () => {
  const sleep = uniqueSleep()
  const refused = await ask([`sleep ${sleep}`], { limitMs: 300 })
  assert.equal(refused?.scope, 'all')
  assert.match(refused?.reason ?? '', /did not answer within 0.3 s/)
  assert.deepEqual(await processesWith(sleep), [])
})

test('checks: one that floods, or ends otherwise, refuses all', async () => {
  assert.match((await ask(['yes | head -c 100000; exit 0']))?.reason ?? '', /more than 4096 bytes/)
  const other = await ask(['exit 9'])
  assert.equal(other?.scope, 'all')
  assert.match(other?.reason ?? '', /ended with 9/)
})

test('checks: an attempt that is cancelled does not wait for its check', async () => {
  const sleep = uniqueSleep()
  const abort = new AbortController()
  const asked = ask([`sleep ${sleep}`], { signal: abort.signal })
  const ended = assert.rejects(asked, { code: 'MESH0304' })
  await until('the check runs', async () => (await processesWith(sleep)).length > 0)
  abort.abort()
  await ended
  assert.deepEqual(await processesWith(sleep), [])
})

test('checks: what is printed is bounded and harmless', () => {
  assert.deepEqual(readAnswer('\n  busy \u001b[31m today\n'), {
    reason: 'busy  [31m today',
    forMs: REFUSAL_MS_DEFAULT,
  })
  assert.deepEqual(readAnswer('busy; retry-after=90'), { reason: 'busy', forMs: 90_000 })
  assert.equal(readAnswer('x'.repeat(5_000)).reason.length, 512)
  assert.equal(readAnswer('retry-after=999999999').forMs, REFUSAL_MS_MAX)
})
