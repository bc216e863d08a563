/** What a node tells of its machine, for `mesh nodes show`. Pure. */
import { formatSize } from '../base/units.ts'
import type { CustomFacts } from '../build/probe/custom-facts.ts'
import type { OfferFacts } from '../build/probe/machine-facts.ts'
import type { Offered } from '../build/probe/offered.ts'
import type { Known } from '../build/probe/known.ts'
import { FACTS_MAX, type Fact } from '../wire/machine-fact.ts'

const VALUE_CHARS_MAX = 256
const HOW_CHARS_MAX = 512

export function shownFacts(options: {
  readonly facts: OfferFacts
  readonly offered: Offered
  readonly custom: CustomFacts
}): Fact[] {
  const { facts, offered, custom } = options
  const { kernel, userland, kvm } = facts
  const probed = (name: string, value: string, how: string): Fact => ({
    name,
    value,
    source: 'probed',
    how,
  })
  const known = <T>(name: string, { value, source, how }: Known<T>, shown: string): Fact => ({
    name,
    value: shown === '' ? String(value) : shown,
    source,
    how,
  })
  const all: Fact[] = [
    known('cpus', offered.cpus, ''),
    known('memory', offered.memoryBytes, formatSize(offered.memoryBytes.value)),
    probed('kernel', `${kernel.system} ${kernel.release}`, 'uname'),
    probed('userland', `${userland.system} ${userland.platform.label}`, userland.how),
    probed('kvm', kvm.host.ok ? (kvm.sandbox.ok ? 'yes' : 'host only') : 'no', kvm.sandbox.why),
    ...offered.systems.map(({ system, how, why }) => probed(system, how, why)),
    ...offered.notices.map((notice, at): Fact => ({
      name: `notice-${at + 1}`,
      value: notice,
      source: 'declared',
      how: 'configuration',
    })),
    ...custom.facts.map((fact) => ({ ...fact, source: 'declared' as const })),
  ]
  return all.slice(0, FACTS_MAX).map((fact) => ({
    ...fact,
    name: fact.name.slice(0, 64),
    value: fact.value.slice(0, VALUE_CHARS_MAX),
    how: fact.how.slice(0, HOW_CHARS_MAX),
  }))
}
