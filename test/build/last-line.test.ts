/** The line that closes a log says why, for every kind of end. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { lastLine } from '../../src/build/last-line.ts'
import { cidOf, sha256 } from '../../src/wire/digest.ts'
import type { AttemptOutcome } from '../../src/wire/work-messages.ts'

const digest = sha256(Buffer.from('x'))

function failed(
  code: Extract<AttemptOutcome, { kind: 'failed' }>['code'],
  message: string,
): Extract<AttemptOutcome, { kind: 'failed' }> {
  return { kind: 'failed', code, message, exitCode: 1, log: null, logTail: '' }
}

const ENDS: readonly (readonly [AttemptOutcome, string | undefined])[] = [
  [failed('MESH0401', 'exit 3'), 'failed: exit 3 (MESH0401)'],
  [failed('MESH0401', 'ended by SIGKILL'), 'failed: ended by SIGKILL (MESH0401)'],
  [
    failed('MESH0402', 'ran longer than run.timeout (30 s) and was killed'),
    'failed: ran longer than run.timeout (30 s) and was killed (MESH0402)',
  ],
  [
    failed('MESH0403', 'the builder ended with 0 but did not create $doc; it created: out'),
    'failed: the builder ended with 0 but did not create $doc; it created: out (MESH0403)',
  ],
  [
    failed('MESH0404', 'the kernel ended a process of it'),
    'failed: the kernel ended a process of it (MESH0404)',
  ],
  [failed('MESH0408', 'output out: is a socket'), 'failed: output out: is a socket (MESH0408)'],
  [
    { ...failed('MESH0401', 'exit 1'), kept: { kind: 'dir', digest, size: 1 } },
    `failed: exit 1 (MESH0401); what it left is kept: mesh get ${cidOf(digest, 'object')} -o DIR`,
  ],
  [
    { kind: 'missing', inputs: [digest], message: 'input a of b: nobody has it' },
    'not begun: input a of b: nobody has it (MESH0501)',
  ],
  [
    { kind: 'infrastructure', code: 'MESH0503', message: 'the disk is full\n  of logs' },
    'broken off: the disk is full; of logs (MESH0503): this says nothing about the build',
  ],
  [{ kind: 'cancelled' }, 'cancelled: nobody needs it any more (MESH0304)'],
  [{ kind: 'cancelled', isHandedBack: true }, 'handed back: the node is stopping (MESH0108)'],
  [{ kind: 'refused', scope: 'job', reason: 'not today', forMs: 1 }, 'refused: not today'],
  [{ kind: 'returned', message: 'no room' }, 'given back: no room'],
]

for (const [outcome, line] of ENDS)
  test(`last-line: ${line}`, () => {
    assert.equal(lastLine(outcome), line)
  })

test('last-line: who gave it up, and never more than one line', () => {
  assert.equal(
    lastLine({ kind: 'cancelled' }, 'ann gave it up'),
    'cancelled: ann gave it up (MESH0304)',
  )
  const long = lastLine(failed('MESH0408', 'a\r\n'.repeat(10_000)))
  assert(long !== undefined && long.length <= 8_192 && !/[\r\n]/.test(long))
})
