// The page of the endpoints, made from openapi.json.

import {byId, h} from "./dom.js";

function kind(schema, all) {
  if (schema.$ref) return kind(all[schema.$ref.split("/").pop()], all);
  if (schema.type === "array") return [kind(schema.items, all)];
  if (schema.type === "object" && schema.properties) {
    return Object.fromEntries(Object.entries(schema.properties).map(([name, one]) => [name, kind(one, all)]));
  }
  return schema.contentMediaType ? "file" : schema.type;
}

function facts(rows) {
  return h("div", {class: "scroll"}, h("table", {class: "facts"}, h("tbody", {}, ...rows.map(([name, text, note]) =>
    h("tr", {}, h("th", {scope: "row"}, h("code", {}, name)), h("td", {}, text, note ? h("span", {class: "soft"}, ` ${note}`) : null))))));
}

function example(path, method, fields, query) {
  const here = new URL(path.slice(1), location.href).href;
  if (method === "get") return `curl '${here}${query.length ? `?${query.map(name => `${name}=…`).join("&")}` : ""}'`;
  return [`curl '${here}'`, "-F images=@photo.jpg", "runs" in fields ? "-F runs=NAME" : null].filter(Boolean).join(" \\\n  ");
}

function operation(path, method, described, all) {
  const fields = described.requestBody?.content["multipart/form-data"].schema.properties ?? {};
  const required = described.requestBody?.content["multipart/form-data"].schema.required ?? [];
  const inputs = [
    ...(described.parameters ?? []).map(one => [one.name, one.description, one.required ? "required" : ""]),
    ...Object.entries(fields).map(([name, one]) => [name, one.description, required.includes(name) ? "required" : ""]),
  ];
  const failures = Object.entries(described.responses).filter(([code]) => code !== "200")
    .map(([code, one]) => [code, one.description]);
  const [type, content] = Object.entries(described.responses[200].content)[0];
  const answer = type === "application/json" ? JSON.stringify(kind(content.schema, all), null, 2) : type;
  return h("section", {class: "card"},
    h("h2", {}, h("span", {class: "method"}, method.toUpperCase()), h("code", {}, path), described.summary),
    described.description ? h("p", {class: "soft"}, described.description) : null,
    h("pre", {tabindex: 0}, example(path, method, fields, (described.parameters ?? []).filter(one => one.required).map(one => one.name))),
    inputs.length ? [h("h3", {}, method === "get" ? "Query" : "Form fields"), facts(inputs)] : null,
    h("h3", {}, "Answer"), h("pre", {tabindex: 0}, answer),
    failures.length ? [h("h3", {}, "Errors"), facts(failures)] : null);
}

const description = await (await fetch("openapi.json")).json();
byId("docs").append(
  h("p", {}, description.info.description),
  ...Object.entries(description.paths).flatMap(([path, methods]) => Object.entries(methods).map(
    ([method, described]) => operation(path, method, described, description.components.schemas))));
byId("docs").removeAttribute("aria-busy");
