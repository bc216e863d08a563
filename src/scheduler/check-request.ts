/** What a graph must hold before a request with it is accepted. Clients check too; they are not believed. */
import { MeshError } from '../base/errors.ts'
import { BUILTIN_FETCH, dependenciesOf, inputsOf, type Graph } from '../wire/derivation.ts'

/** Throws MESH0202-0211 for a graph with duplicate or unknown names, a circle, or a malformed fetch. */
export function checkGraph(graph: Graph): void {
  const byName = new Map(graph.derivations.map((derivation) => [derivation.name, derivation]))
  if (byName.size !== graph.derivations.length)
    throw new MeshError('MESH0203', `graph "${graph.name}" has two derivations of one name`)
  for (const name of graph.wanted)
    if (!byName.has(name))
      throw new MeshError(
        'MESH0206',
        `graph "${graph.name}" asks for "${name}", which it does not define`,
      )
  for (const derivation of graph.derivations) {
    if ((derivation.builder === BUILTIN_FETCH) !== (derivation.fetch !== undefined))
      throw new MeshError(
        'MESH0203',
        `derivation "${derivation.name}": builder ${BUILTIN_FETCH} and "fetch" go together`,
      )
    if (derivation.needs.cpus.max < derivation.needs.cpus.min)
      throw new MeshError(
        'MESH0203',
        `derivation "${derivation.name}": needs.cpus has max ${derivation.needs.cpus.max} below min ${derivation.needs.cpus.min}`,
      )
    for (const input of inputsOf(derivation)) {
      if (input.kind !== 'output') continue
      if (byName.get(input.derivation)?.outputs.includes(input.output) !== true)
        throw new MeshError(
          'MESH0206',
          `derivation "${derivation.name}" takes ${input.derivation}.${input.output}, which does not exist`,
        )
    }
  }
  const missing = new Map(
    graph.derivations.map((derivation) => [derivation.name, dependenciesOf(derivation).length]),
  )
  const dependents = new Map<string, string[]>()
  for (const derivation of graph.derivations)
    for (const name of dependenciesOf(derivation)) {
      const list = dependents.get(name)
      if (list === undefined) dependents.set(name, [derivation.name])
      else list.push(derivation.name)
    }
  const ready = [...missing].filter(([, count]) => count === 0).map(([name]) => name)
  let ordered = 0
  for (let name = ready.pop(); name !== undefined; name = ready.pop()) {
    ordered += 1
    for (const dependent of dependents.get(name) ?? []) {
      const left = (missing.get(dependent) ?? 0) - 1
      missing.set(dependent, left)
      if (left === 0) ready.push(dependent)
    }
  }
  if (ordered === graph.derivations.length) return
  const circle = [...missing].filter(([, count]) => count > 0).map(([name]) => name)
  throw new MeshError(
    'MESH0204',
    `these derivations depend on each other in a circle: ${circle.slice(0, 10).join(', ')}`,
  )
}
