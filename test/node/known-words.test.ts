/** What an older parent is told. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inKnownWords } from '../../src/node/tree/known-words.ts'
import { FEATURE_REFUSE, FEATURE_TREE, type SyncMessage } from '../../src/wire/work-messages.ts'

const told = (outcome: SyncMessage['finished'][number]['outcome']): SyncMessage => ({
  type: 'sync',
  seq: 1,
  ackSeq: 0,
  state: 'ready',
  note: '',
  environments: [],
  capacity: { cpus: 1, memoryBytes: 1, diskBytes: 1 },
  running: [],
  finished: [
    {
      attempt: 'a-222222',
      outcome,
      usage: null,
      phases: {},
      bytes: { peer: 0, mirror: 0, local: 0 },
    },
  ],
})

test('known-words: a refusal is a failure of the infrastructure to a parent that knows no refusals', () => {
  const refused = told({ kind: 'refused', scope: 'job', reason: 'no license', forMs: 1_000 })
  assert.deepEqual(inKnownWords(refused, [FEATURE_TREE]).finished[0]?.outcome, {
    kind: 'infrastructure',
    code: 'MESH0505',
    message: 'refused: no license',
  })
  assert.equal(inKnownWords(refused, [FEATURE_TREE, FEATURE_REFUSE]), refused)
  const returned = told({ kind: 'returned', message: 'no room' })
  assert.equal(inKnownWords(returned, []).finished[0]?.outcome.kind, 'infrastructure')
  const cancelled = told({ kind: 'cancelled' })
  assert.deepEqual(inKnownWords(cancelled, []), cancelled)
})
