// A native text field or choice that tells the page its value. Written with a render function: a Vue template
// would be compiled in the browser, which the content security policy forbids.
export default {
  props: { tag: String, start: String, version: Number, choices: Array, submits: Boolean },
  emits: ["value", "submit"],
  data() {
    return { value: this.start };
  },
  watch: {
    version() {
      this.value = this.start;
    },
  },
  methods: {
    changed(event) {
      this.value = event.target.type === "checkbox" ? String(event.target.checked) : event.target.value;
      this.$emit("value", this.value);
    },
    pressed(event) {
      if (this.submits && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.$emit("submit", this.value);
      }
    },
  },
  render() {
    const common = { onInput: this.changed, onKeydown: this.pressed };
    if (this.$attrs.type === "checkbox") return Vue.h("input", { ...common, checked: this.value === "true" });
    return Vue.h(this.tag, { ...common, value: this.value });
  },
};
