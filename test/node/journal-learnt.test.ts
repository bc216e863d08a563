/** What was learnt outlives the facts that taught it: a compacted journal still has it. */
import assert from 'node:assert/strict'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { removeTree } from '../../src/files/workers/remove-job.ts'
import { openJournal } from '../../src/node/owner/journal.ts'
import { snapshotOf } from '../../src/scheduler/learnt.ts'
import { State } from '../../src/scheduler/state.ts'
import { derivation } from '../scheduler/samples.ts'
import { World } from '../scheduler/world.ts'

test('journal: what was learnt outlives the facts that taught it', async () => {
  const world = new World()
  const node = world.node('n1')
  for (const name of ['a', 'b']) {
    world.submit(name, [derivation(name)], { user: `n/${name}` })
    node.take()
    node.build(undefined, undefined, {
      usage: { wallMs: 7_000, cpuMs: 6_000, maxRssBytes: 50_000 },
      measured: { memoryBytes: 100_000, memoryFrom: 'cgroup', diskBytes: 5 },
    })
  }
  const { wallMs } = world.moment
  const before = world.scheduler.state
  const directory = await mkdtemp(join(tmpdir(), 'mesh-journal-'))
  try {
    {
      await using journal = await openJournal({ directory })
      await journal.append(world.facts)
      // Everything is dropped but the epoch: all that is left of the builds is what they taught.
      await journal.compact(({ type }) => type === 'epoch', snapshotOf(before, wallMs))
      assert.equal(journal.length, 2)
      await journal.append([{ type: 'epoch', epoch: 2 }])
    }
    await using journal = await openJournal({ directory })
    const after = new State()
    for await (const fact of journal.replay()) after.evolve(fact)
    assert.equal(after.epoch, 2)
    assert.equal(after.requests.size, 0)
    assert.deepEqual(after.estimates.of(derivation('a')), before.estimates.of(derivation('a')))
    assert.equal(after.estimates.of(derivation('a')).durationMs, 7_000)
    for (const user of ['n/a', 'n/b']) {
      assert(before.usage.of(user, wallMs) > 0)
      assert.equal(
        Math.round(after.usage.of(user, wallMs)),
        Math.round(before.usage.of(user, wallMs)),
      )
    }
  } finally {
    await removeTree(directory)
  }
})
