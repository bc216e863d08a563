/** `mesh nodes show`: what a node told of its machine, with where it comes from. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeShowLines } from '../../src/cli/node-views.ts'
import { NodeView } from '../../src/wire/api.ts'

const T0 = '2026-11-22T10:00:00.000Z'

test('nodes show: facts, in one line each, and nothing that a terminal would obey', () => {
  const node = NodeView.parse({
    name: 'ci-a',
    peerId: `12D3KooW${'A'.repeat(44)}`,
    state: 'ready',
    roles: ['worker'],
    parent: null,
    environments: [],
    capacity: { cpus: 4, memoryBytes: 2 ** 30, diskBytes: 2 ** 30 },
    allocated: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
    versions: { mesh: '0.1.0', protocols: [] },
    http: null,
    lastSeenAt: T0,
    note: '',
    facts: [
      { name: 'cpus', value: '4', source: 'probed', how: '/sys/fs/cgroup/cpu.max' },
      { name: 'gpu', value: '\u001b[31mRTX\n4090', source: 'declared', how: '/etc/mesh/gpu' },
    ],
  })
  const lines = nodeShowLines(node, [], {
    style: { colour: false, unicode: true },
    nowWallMs: Date.parse(T0),
  })
  const facts = lines.filter((line) => line.startsWith('  fact'))
  assert.equal(facts[0], '  fact       cpus = 4 (probed: /sys/fs/cgroup/cpu.max)')
  assert.match(facts[1] ?? '', /^ {2}fact {7}gpu = .*RTX.*4090 \(declared: \/etc\/mesh\/gpu\)$/)
  assert.doesNotMatch(lines.join(''), /\p{Cc}/u)
})
