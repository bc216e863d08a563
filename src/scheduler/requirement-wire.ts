/** Requirements as they travel between the levels of a tree, and what a lease requires of whoever runs it. */
import { sha256 } from '../wire/digest.ts'
import type { Lease, RequirementWire } from '../wire/work-messages.ts'
import type { Requirement } from './match.ts'

const names = new WeakMap<Requirement, string>()

/** The name of a class in messages: equal for equal requirements at every level. */
export function classOf(requirement: Requirement): string {
  const known = names.get(requirement)
  if (known !== undefined) return known
  const name = sha256(requirement.key).slice(0, 32)
  names.set(requirement, name)
  return name
}

export function requirementToWire({ key: _key, bindings, ...parts }: Requirement): RequirementWire {
  return {
    hosts: [...parts.hosts],
    isFetch: parts.isFetch,
    sealed: parts.sealed,
    features: [...parts.features],
    tools: [...parts.tools],
    cpusMin: parts.cpusMin,
    cpusMax: parts.cpusMax,
    memoryBytes: parts.memoryBytes,
    diskBytes: parts.diskBytes,
    bindings: [...bindings],
  }
}

export function requirementFromWire({ bindings, ...parts }: RequirementWire): Requirement {
  return {
    ...parts,
    bindings: new Map(bindings),
    key: JSON.stringify([parts, bindings.toSorted(([a], [b]) => (a < b ? -1 : 1))]),
  }
}

/** The action names its environment: whoever runs it must have just that. */
export function requirementOfLease(lease: Lease): Requirement {
  const { terms, userland, isolation, cpus, memoryBytes, diskBytes } = lease
  return requirementFromWire({
    hosts: [terms?.host ?? 'any'],
    isFetch: userland === null,
    sealed: isolation !== 'host',
    features: terms?.features ?? [],
    tools: Object.keys(userland?.tools ?? {}).toSorted(),
    cpusMin: terms?.cpusMin ?? cpus,
    cpusMax: terms?.cpusMax ?? cpus,
    memoryBytes,
    diskBytes,
    bindings: userland === null || terms === undefined ? [] : [[terms.host, userland]],
  })
}
